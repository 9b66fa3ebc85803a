"""The published LRAS: its checkpoint files read safely, and its numbers beside ours."""
