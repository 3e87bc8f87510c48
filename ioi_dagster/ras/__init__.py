"""RAS, the registry: signed records of what exists, leased state of what is alive, and selection among both."""
