"""Tests of what is told and when."""
