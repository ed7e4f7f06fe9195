"""Backtester: strategies over bars and ticks of several instruments, traded by `core.paper_trader`'s own engine.

Pure: no files, no clock, no randomness but the seed handed in. Needs numpy (`pip install '.[library]'`).
"""
