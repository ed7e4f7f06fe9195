"""The WebSockets of the simulated Alpaca: the trading stream and the market-data streams."""
