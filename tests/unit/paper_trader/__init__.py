"""The paper trading engine, judged by hand-worked numbers and by properties."""
