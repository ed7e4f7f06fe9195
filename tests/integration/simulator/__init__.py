"""The simulated brokers over real sockets."""
