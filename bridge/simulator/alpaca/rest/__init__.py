"""The REST of the simulated Alpaca: one module per subject behind one door."""
