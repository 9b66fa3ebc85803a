"""Promises and their figures; run by hand, never imported by the packages."""
