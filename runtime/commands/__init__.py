"""The commands gemma3-run, gemma3-bundle and gemma3-bench: the only place that knows flags."""
