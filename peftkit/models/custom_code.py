"""The code of classifiers that transformers lacks, beside their checkpoints."""

import json
from pathlib import Path

from transformers import PreTrainedModel

# before the classifiers: they import transformers, whose import imports the heads, which need the whole classifiers
import peftkit.models.heads  # noqa: F401
from peftkit.models import classifiers

CODE = "modeling_peftkit"  # the module with the classes


def write_code(model: PreTrainedModel, folder: Path) -> bool:
    """Write the class of a model beside its config.json, and name it there; return whether there is such a class.

    transformers then loads the folder with `trust_remote_code=True`. Nothing is written for a class of transformers,
    nor for one that needs more of peftkit than the module of the classifiers: config.json then names no code.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    named = config.pop("auto_map", None)
    is_own = type(model).__module__ == classifiers.__name__ and not getattr(model.config, "pruned_heads", None)
    if is_own:
        name, config_name = type(model).__name__, type(model.config).__name__
        code = Path(classifiers.__file__).read_text(encoding="utf-8")
        if not hasattr(classifiers, name):
            encoder = model.config.model_type.removeprefix(classifiers.MEAN_POOLING)
            code += f'\n\n{config_name}, {name} = mean_pooling_classes("{encoder}")\n'
        (folder / f"{CODE}.py").write_text(code, encoding="utf-8")
        auto = f"AutoModelFor{name.rpartition('For')[2]}"
        config["auto_map"] = {"AutoConfig": f"{CODE}.{config_name}", auto: f"{CODE}.{name}"}
    if is_own or named is not None:
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return is_own
