"""Arrays in, arrays out: attention, ring attention, blockwise layers, rotary positions."""
