"""Sessions: machine, queue, faults, refreshes, service, in virtual time."""
