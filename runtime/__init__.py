"""Bundle in, tokens out, over public JAX API. Imports only artifacts."""
