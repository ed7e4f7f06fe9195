"""Grants: whose tokens they are, where they rest and how they are renewed."""
