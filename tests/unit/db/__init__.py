"""The database room, as far as it decides without a database."""
