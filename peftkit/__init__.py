"""Fine-tuning of BERT, GPT-2 and T5 with the methods of PEFT, and comparisons with statistical tests.

Importing this package imports no torch: the functions of the API are imported when they are used, and the tuners and
classifiers of peftkit are registered with PEFT and transformers when these are imported.
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from peftkit.api import (
        base_checkpoint,
        combine,
        compare,
        diff,
        embed,
        evaluate,
        export,
        finetune,
        leaderboard,
        load,
        merge,
        ood,
        plan,
        predict,
        prune,
        push,
        runs,
    )
    from peftkit.config import UserError

__all__ = [
    "UserError", "base_checkpoint", "combine", "compare", "diff", "embed", "evaluate", "export", "finetune",
    "leaderboard", "load", "merge", "ood", "plan", "predict", "prune", "push", "runs",
]  # fmt: skip

try:
    __version__ = version("peftkit")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0+checkout"


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'peftkit' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module("peftkit.config" if name == "UserError" else "peftkit.api"), name)


def _import_bitsandbytes(_: Any) -> None:
    """Import bitsandbytes before PEFT does, without torch's compiler."""
    import_module("peftkit.compat.bitsandbytes").import_bitsandbytes()


def _register_tuners(_: Any) -> None:
    """Import every module of `peftkit.methods`: those with a tuner register it."""
    package = import_module("peftkit.methods")
    for module in iter_modules(package.__path__, "peftkit.methods."):
        import_module(module.name)


def _register_classifiers(_: Any) -> None:
    """Import `peftkit.models.heads` as soon as all modules that it needs can be imported.

    transformers' modules import one another in cycles, so this waits for those that are partially initialized.
    """
    families = import_module("peftkit.config.families").FAMILIES
    types = ["t5", *(name.replace("-", "_") for name, family in families.items() if family.pools_mean)]
    needed = ["transformers.models.auto.modeling_auto", "transformers.modeling_layers"]
    needed += [f"transformers.models.{name}.modeling_{name}" for name in types]

    def register(imported: Any) -> None:
        specs = [getattr(sys.modules.get(name), "__spec__", None) for name in {*needed} - {imported.__name__}]
        is_ready = not any(getattr(spec, "_initializing", False) for spec in specs)
        if is_ready and "peftkit.models.heads" not in sys.modules:  # else that module is importing transformers
            import_module("peftkit.models.heads")

    for name in needed:
        wrapt.register_post_import_hook(register, name)


class _Leaderboard(ModuleType):
    """The package `peftkit.leaderboard`, which can also be called: as the function `peftkit.leaderboard()`."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return import_module("peftkit.api").leaderboard(*arguments, **settings)


def _make_callable(package: Any) -> None:
    package.__class__ = _Leaderboard


wrapt.register_post_import_hook(_make_callable, "peftkit.leaderboard")
wrapt.register_post_import_hook(_import_bitsandbytes, "peft.import_utils")
# so that PeftModel.from_pretrained and transformers.pipeline load what peftkit saved
wrapt.register_post_import_hook(_register_tuners, "peft")
wrapt.register_post_import_hook(_register_classifiers, "transformers")
