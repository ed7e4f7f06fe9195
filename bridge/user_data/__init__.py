"""All that is stored of one user, wherever it is: told to them, erased, and moved to other user keys."""
