"""The TF SavedModel of a bundle; the only folder that imports tensorflow and orbax."""
