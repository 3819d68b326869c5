"""Checkpoints in: Hugging Face folders and GGUF files, read piece by piece."""
