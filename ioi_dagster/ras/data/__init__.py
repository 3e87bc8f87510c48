"""Where assets lie, how they get elsewhere, and how copies are kept: decided on values; `adapters/fsspec` does it."""
