"""Jobs that an executor must run as Dagster means them, and what is observed of each."""
