"""Typed read-only tools: each returns evidence about the observation of the round and touches nothing else."""
