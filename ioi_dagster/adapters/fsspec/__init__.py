"""Parts of assets as files behind URLs that fsspec knows: read, written, moved, folded."""
