"""Checkpoint, meshes and buckets in; a bundle out. The only package that imports model."""
