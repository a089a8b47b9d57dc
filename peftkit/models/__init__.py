"""Models: checkpoints, heads, embeddings, tokenizers, and the tiny models of offline use."""
