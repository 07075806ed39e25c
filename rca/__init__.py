"""From evidence to root causes: fault models, Bayesian scoring, causal pruning, verification. No model, no I/O."""
