"""The Greeks and implied volatility against other programs, 30-digit arithmetic, and what must always hold."""
