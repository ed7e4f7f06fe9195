"""Brokers that run on a laptop and speak the real protocols; knows nothing of the bridge it judges."""
