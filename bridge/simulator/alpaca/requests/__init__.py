"""What clients ask of an account: read, checked, and refused whole or carried out."""
