"""Judging results: the port of an expectations engine and its outcomes."""
