"""Order matching and portfolio engine; shares no account arithmetic with the mirror it is compared with."""
