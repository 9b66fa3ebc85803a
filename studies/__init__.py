"""Studies: many runs that differ in one thing, each ended by the same evaluation and card."""
