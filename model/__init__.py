"""Gemma 3 as flax.nnx modules: what the numbers are. Knows nothing of bundles."""
