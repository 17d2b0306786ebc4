"""Where arrays live: the device mesh, the rules that shard parameters, the zigzag layout of sequences."""
