"""All uses of undocumented parts of transformers, peft, accelerate and bitsandbytes, each pinned by a test."""
