"""The modules as pure functions of named weights: what an export traces."""
