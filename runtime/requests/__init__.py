"""Requests to a loaded bundle: generate, score, classify, embed."""
