"""Which process serves which session: leases, fair shares, taking over and handing over (DESIGN §9)."""
