"""From a bundle on disk to programs and weights on the devices of a mesh."""
