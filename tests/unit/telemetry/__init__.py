"""Tests of bridge/telemetry."""
