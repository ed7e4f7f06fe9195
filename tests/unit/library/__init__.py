"""The trading library: backtester, optimizer, Greeks."""
