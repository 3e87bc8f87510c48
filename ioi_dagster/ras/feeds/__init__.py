"""Signed feeds, by which registries tell each other what their owners state: values and state machines, no I/O."""
