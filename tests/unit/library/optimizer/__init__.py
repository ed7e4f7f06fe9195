"""The optimizer: searches, runs that are killed, windows, intervals, overfitting."""
