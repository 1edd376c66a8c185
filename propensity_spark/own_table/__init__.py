"""A table of one's own: one row per customer, any columns, and whether they ordered; from there on the line's own train and evaluate."""
