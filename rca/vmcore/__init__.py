"""Judges a kernel crash: from what a dump or a kernel log told to ranked causes with their evidence."""
