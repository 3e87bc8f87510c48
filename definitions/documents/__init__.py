"""The main example: a pile of photographs, scans and PDFs becomes a searchable book."""
