"""Tests of bridge/api."""
