"""Tests of the audit log without a database."""
