"""A sweep: planned and priced before it starts, resumed where it ended, recorded as one parent run with a child per point."""
