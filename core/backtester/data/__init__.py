"""Market data as columns, checked on the way in: bars and ticks, from CSV text, resampled, or a made-up sample."""
