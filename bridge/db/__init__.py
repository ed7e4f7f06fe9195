"""Postgres: connections, migrations, advisory locks. Every table belongs to the room that reads and writes it."""
