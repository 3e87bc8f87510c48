"""Code locations: wiring and thin block wrappers, no coordination logic."""
