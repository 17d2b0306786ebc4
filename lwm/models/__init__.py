"""Flax Linen modules and the plain classes around them; each file owns its sizes and PARTITION_RULES."""
