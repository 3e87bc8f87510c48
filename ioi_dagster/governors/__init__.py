"""One state machine a governor: events in, instructions out; no I/O, no clock, no randomness."""
