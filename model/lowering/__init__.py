"""How a forward pass is written for a platform and a mesh; never what is computed."""
