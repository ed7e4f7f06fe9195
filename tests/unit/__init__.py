"""One module at a time: no sockets, no stores."""
