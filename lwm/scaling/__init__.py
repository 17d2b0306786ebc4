"""What a run would take and what it would give, worked out instead of run: nothing of JAX or of training.

Laws of scaling: runs_table (runs as arrays) · laws, starts, fitting · resampling, profiles (intervals) ·
comparison, verdicts, allocation (what follows). compression: raw bytes and tokens of data. flops: of
training. sweep: a grid of runs to fit laws to. The others: time.
"""
