"""What a bundle holds, how two differ, and a page about it; for people."""
