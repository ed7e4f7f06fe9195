"""Tests of the simulated brokers' parts."""
