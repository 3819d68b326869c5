"""What a TensorFlow Serving server is asked and answers: signatures and messages."""
