"""One file a method, each readable alone."""
