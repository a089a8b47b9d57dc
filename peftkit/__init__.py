"""Turn a choice of model, method and task into an honest comparison.

Importing this package loads nothing heavy: the verbs come when they are asked for, and PEFT and transformers learn of
our tuner and our classifiers when they are imported themselves.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import wrapt

__all__ = ["embed", "evaluate", "finetune", "load", "merge", "plan", "predict"]

try:
    __version__ = version("peftkit")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+checkout"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'peftkit' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module("peftkit.api"), name)


def _know_adapters(_: Any) -> None:
    import_module("peftkit.methods.adapter")
    import_module("peftkit.methods.soft_prompt")
    import_module("peftkit.methods.mix")
    import_module("peftkit.methods.layer_mix")


def _know_classifiers(_: Any) -> None:
    if "peftkit.models.heads" not in sys.modules:  # else it is what is importing transformers just now
        import_module("peftkit.models.heads")


# so that PeftModel.from_pretrained and transformers.pipeline load what peftkit saved
wrapt.register_post_import_hook(_know_adapters, "peft")
wrapt.register_post_import_hook(_know_classifiers, "transformers.models.auto.modeling_auto")
