"""Pure trading domain: money, instruments, orders, positions, the account mirror. No I/O, no clock, no asyncio."""
