"""Life of a session: states, admission, backoff, supervision."""
