"""All uses of undocumented parts of transformers, peft, accelerate, trl, bitsandbytes and hydra, pinned by tests."""
