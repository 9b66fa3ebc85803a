"""The question put to a model: where did this point go?"""
