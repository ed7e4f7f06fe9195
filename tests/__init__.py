"""Everything that judges the code."""
