"""One file a source of observation. Collectors read; they never change the host."""
