"""Tests of bridge/runtime."""
