"""How fast the line is, measured: `make bench`. Nothing here is a test, and nothing in the package needs it."""
