"""Turn a checkpoint into a model with its tokenizer."""
