"""Searching parameters and judging what was found: searches, walk-forward, Monte Carlo, sensitivity, overfitting.

No I/O (but for `journal_file`), no clock, no asyncio. Every draw of chance comes from a seed that the caller gives, and
no result depends on how many processes made it. Arrays are numpy float64; nothing here knows what a backtest is: it
tries a callable `(params, seed) -> metrics`.
"""
