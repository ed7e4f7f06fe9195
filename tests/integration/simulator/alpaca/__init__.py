"""The simulated Alpaca over real HTTP and WebSockets."""
