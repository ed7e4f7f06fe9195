"""Records of accounts and the way they reach the stores and readers."""
