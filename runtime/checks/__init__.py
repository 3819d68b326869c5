"""Whether a bundle runs here and gives what it should."""
