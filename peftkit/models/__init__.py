"""Models: checkpoints, heads, embeddings, tokenizers, and the small models of source=offline."""
