"""The model: codes, patches, sequences. Imports nothing of ours."""
