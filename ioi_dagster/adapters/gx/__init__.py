"""Great Expectations behind the quality port. It takes seconds to import, so only the process that judges does."""
