"""Held-out likelihood, needles, reconstructions: each `evaluate(...) -> Iterator[(name, value)]`."""
