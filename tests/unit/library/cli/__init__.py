"""The command line of the trading library."""
