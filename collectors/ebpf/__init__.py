"""Kernel tracing through eBPF: programs compiled by BCC in a short-lived process, maps read here once a tick."""
