"""What all broker adapters share, without a broker."""
