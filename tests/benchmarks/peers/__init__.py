"""What users would run instead, each in a process of its own; shared by all benchmarks."""
