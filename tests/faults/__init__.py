"""The fault suite: every fault of the catalogue that this code base can meet, against real processes and stores."""
