"""Whether something may happen: documents, decisions, permits and the gate that composes the scopes."""
