"""Frozen values shared by every part; standard library only."""
