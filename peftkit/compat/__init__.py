"""All uses of undocumented parts of transformers, peft, accelerate, trl and bitsandbytes, each pinned by a test."""
