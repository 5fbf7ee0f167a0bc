"""Text to vectors: tokenizer, runtime, pooling, and the embedding function over them."""
