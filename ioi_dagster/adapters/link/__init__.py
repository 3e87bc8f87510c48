"""Inside a domain: the gateway's line to its cluster governors."""
