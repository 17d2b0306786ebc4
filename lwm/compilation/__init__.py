"""Programs compiled by the real TPU compiler for pods that are not there, and what can be read from them."""
