"""The simulated cTrader over real sockets."""
