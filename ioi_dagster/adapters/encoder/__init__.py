"""Encoders of meanings for matching, from weights in a folder of this machine."""
