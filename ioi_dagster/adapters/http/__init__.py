"""The gateway of a domain and its clients."""
