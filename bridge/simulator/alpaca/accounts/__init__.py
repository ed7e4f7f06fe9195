"""What the simulated broker has on file for each account: plain data and the sums over it. Nothing moves here."""
