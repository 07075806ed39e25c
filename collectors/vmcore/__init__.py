"""Reads kernel crash dumps and the kernel logs of crashes. No debug information of the kernel is needed."""
