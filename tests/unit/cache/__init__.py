"""Tests of records, flush planning, the flusher and the reader."""
