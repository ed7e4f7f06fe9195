"""The always-on process between trading apps and brokers."""
