"""OAuth of the simulated Alpaca: the consent page for people and the token endpoint for applications."""
