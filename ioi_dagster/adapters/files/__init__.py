"""Values as files, here or behind a URL."""
