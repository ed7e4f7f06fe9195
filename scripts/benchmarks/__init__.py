"""Measurements against the targets of DESIGN §15: our real parts, and beside each a plain comparison in the same run.

Nothing here is imported by the bridge. Invariants: every figure comes with what it was compared with in the same run,
all traffic stays on loopback, every measurement has a deadline, and no process outlives the command.
"""
