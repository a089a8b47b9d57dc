"""Turn a few tasks into many, with a language model and a record of why each was kept or thrown away."""
