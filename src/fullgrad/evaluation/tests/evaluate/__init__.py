"""Many tests of many methods on one's own models, and which method to trust on which."""
