"""Compound AI graphs: blocks, their invocation and what flows between them."""
