"""Stores behind the Store protocol, one file per kind."""
