"""What a run would take, worked out instead of run: formulas on numbers, nothing of JAX or of training."""
