"""Orders at work: carried to the engine and back, booked, and what follows from each execution."""
