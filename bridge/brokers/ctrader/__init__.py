"""The cTrader Open API behind the Broker protocol."""
