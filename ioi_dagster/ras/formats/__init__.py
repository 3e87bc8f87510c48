"""Documents of other registries: read into drafts of records, and written from records again."""
