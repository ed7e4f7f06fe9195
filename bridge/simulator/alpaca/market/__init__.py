"""The simulated market: what is listed, what it costs, and when it trades. Knows nothing of accounts."""
