"""Training networks from scratch, one or several stacked, and resuming after a kill."""
