"""The command line of the trading library: the only part of `core` that reads files, writes to a terminal or uses rich.

Results go to stdout, progress and errors to stderr. What is computed is computed elsewhere.
"""
