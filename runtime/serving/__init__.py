"""A bundle's SavedModel behind TensorFlow Serving, used from here; imports no TensorFlow."""
