"""Pictures of a prompt: files to pixels, pixels to soft tokens."""
