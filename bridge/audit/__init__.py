"""The audit log: what was done, by whom and about whom, in a chain of rows that shows every edit."""
