"""The Dagster side: the only package that imports Dagster, besides the project's `definitions/`."""
