"""Can what one capability gives be given to another? JSON Schemas and media types, answered with yes, no or unknown."""
