"""Deterministic simulation: bridge processes, both brokers and every store on one virtual clock, from one seed."""
