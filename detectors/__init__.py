"""One file an algorithm: what is unusual, since when, and how surprising."""
