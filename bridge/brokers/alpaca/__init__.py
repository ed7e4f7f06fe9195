"""The Alpaca adapter: REST readings, the trading stream and prices behind `bridge.brokers.base.Broker`."""
