"""The backtester: data in, no way to see the future, the engine's fills, the fast path."""
