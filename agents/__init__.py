"""The round: a supervisor graph that sends specialists over typed tools, led by rules or by a model."""
