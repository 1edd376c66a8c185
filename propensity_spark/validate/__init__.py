"""Bronze → silver and quarantine: typed, each version of a row once, every rejected row kept with its reasons."""
