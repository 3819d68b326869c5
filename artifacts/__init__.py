"""The bundle format: manifest, weight store, digests. Imports neither model nor export."""
