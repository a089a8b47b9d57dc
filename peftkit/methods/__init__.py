"""Methods: which weights of a model train, and what is added to it."""

import peft  # noqa: F401  # first: its import hook in peftkit/__init__ registers the tuners

from peftkit.methods.gradual import Gradual, Unfreezing
from peftkit.methods.merging import is_mergeable, merge_adapter
from peftkit.methods.native import (
    BagOfWords,
    BitFit,
    Full,
    LinearEstimator,
    LinearProbe,
    Prompting,
    Untuned,
    embedding_rows,
)
from peftkit.methods.peft import (
    Parameters,
    apply_method,
    check_adapter,
    count_parameters,
    load_adapter,
    load_adapters,
)
from peftkit.methods.shared_ranks import join_ranks, share_ranks
from peftkit.methods.soft_prompt import replace_prompt_encoders
from peftkit.methods.steering import Steering, SteeringVector
from peftkit.methods.tying import is_task_head, tie_models

__all__ = [
    "BagOfWords",
    "BitFit",
    "Full",
    "Gradual",
    "LinearEstimator",
    "LinearProbe",
    "Parameters",
    "Prompting",
    "Steering",
    "SteeringVector",
    "Unfreezing",
    "Untuned",
    "count_parameters",
    "embedding_rows",
    "replace_prompt_encoders",
    "is_mergeable",
    "is_task_head",
    "join_ranks",
    "share_ranks",
    "load_adapter",
    "load_adapters",
    "merge_adapter",
    "apply_method",
    "check_adapter",
    "tie_models",
]
