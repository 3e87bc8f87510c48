"""One folder per vendor; what two of them share is a value in `model/`."""
