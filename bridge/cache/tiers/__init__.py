"""The tiers of the general cache: this process's memory, Redis, Postgres."""
