"""The cTrader adapter's decisions, without a socket."""
