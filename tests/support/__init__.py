"""Helpers of the tests: servers, waiting, processes."""
