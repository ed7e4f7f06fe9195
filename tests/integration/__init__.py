"""Real sockets, real stores, whole processes."""
