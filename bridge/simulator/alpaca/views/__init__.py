"""What an account looks like from outside: documents, history and truth. Reads only."""
