"""Real servers for tests and the demonstration, from PyPI wheels; never part of a deployment (DESIGN §14)."""
