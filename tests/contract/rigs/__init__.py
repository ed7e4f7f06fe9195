"""One rig per broker: how the Broker contract suite gets a broker to judge, and a world that misbehaves on request."""
