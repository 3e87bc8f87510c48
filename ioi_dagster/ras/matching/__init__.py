"""Matching words to capabilities: an index of what capabilities say of themselves, ranked by what a request says."""
