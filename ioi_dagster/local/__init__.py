"""A federation on one machine: for trying, for tests, for a single site."""
