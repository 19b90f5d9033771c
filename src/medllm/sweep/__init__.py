"""A sweep's record: one parent run, one child per point, a table and a plot at the end."""
