"""The public Python functions over bundles; `gemma3_export` offers them."""
