"""Python code that loads the model of a run, for its card: with transformers and PEFT alone, where they can."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_MAPPING

from peftkit.config import RunConfig, is_prompted, kind_of
from peftkit.config.families import MEAN_POOLING, declared_family
from peftkit.config.source import Source
from peftkit.models.checkpoints import PACKAGED
from peftkit.models.custom_code import CODE
from peftkit.models.heads import T5EncoderConfig, without_pooler
from peftkit.paths import cache_folder

BASE = "base"  # subfolder of an adapter, with the config of its base, and its weights on request
SPECIAL = re.compile(r"[\\`*\[\]<>|&]")  # characters that Markdown reads in a line


@dataclass(frozen=True)
class Artifact:
    """The trained weights that a card describes.

    Args:
        name: adapter, model, merged, prompt, gguf or onnx.
        path: where `from_pretrained` finds it: a folder, relative to that of the card, or a Hub id.
        config: config.json of the trained model, of an adapter that of its base; empty of a prompt.
        base: where the base is; None where it is part of the artifact.
        folder: of the card, from which relative paths lead to the base.
        arguments, tokenizer_arguments: with which `from_pretrained` reads its model, and its tokenizer.
        is_calibrated: its logits are divided by the temperature of the run.
    """

    name: str
    path: str
    config: Mapping[str, Any] = field(default_factory=dict)
    base: Source | None = None
    folder: Path = Path()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_arguments: Mapping[str, Any] = field(default_factory=dict)
    is_calibrated: bool = False


@dataclass
class Code:
    """Lines of code, the names that they import by module, and why they need another package than PEFT.

    Args:
        own_class: the module beside the artifact, and the class in it, that they load because transformers lacks it.
    """

    lines: list[str] = field(default_factory=list)
    imports: dict[str, set[str]] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    needs: str = ""
    own_class: str | None = None

    def name(self, name: str, module: str = "transformers") -> str:
        """Import a name and return it."""
        self.imports.setdefault(module, set()).add(name)
        return name

    def text(self) -> str:
        """Return the code, with its imports first."""
        modules = [f"import {name}" for name in sorted(self.modules)]
        names = [f"from {module} import {', '.join(sorted(self.imports[module]))}" for module in sorted(self.imports)]
        return "\n".join([*modules, *names, "", *self.lines])


def literal(value: Any) -> str:
    """Return numbers, texts and lists of them as Python code, in one line."""
    return json.dumps(value, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plain(text: Any) -> str:
    """Return a name as it is in a line of Markdown: no character of it has a meaning there, or in HTML."""
    return SPECIAL.sub(lambda match: f"&#{ord(match[0])};", " ".join(str(text).split()))


def loading_code(run: RunConfig, artifact: Artifact) -> Code:
    """Return the code that sets `model` and `tokenizer`; of a prompt also what the prompt consists of."""
    code = Code()
    if (reason := _needs_peftkit(run, artifact)) is not None:
        code.needs = reason
        code.modules.add("peftkit")
        if reason == IN_RUN_FOLDER:
            code.lines.append('model, tokenizer = peftkit.load(".")  # the folder of this card')
            return code
    elif artifact.name == "adapter" and not _target(run).startswith("peft."):
        package = _target(run).rpartition(".")[0]
        code.needs = f"The method is in the package `{package.partition('.')[0]}`, which registers it with PEFT."
        code.modules.add(package)
    if artifact.name == "prompt":
        return _prompt_code(run, artifact, code)
    code.own_class = None if "peftkit" in code.modules else _own_class(run, artifact)
    path = literal(artifact.path)
    # of the tokenizer, too: transformers reads the config beside it, and else waits for an answer on stdin
    trusted = ["trust_remote_code=True"] if code.own_class and artifact.name != "adapter" else []
    if artifact.name == "adapter":
        _add_adapter(run, artifact, code)
    else:
        more = [f"{name}={literal(value)}" for name, value in artifact.arguments.items()]
        more += ["add_pooling_layer=False"] if _has_unused_pooler(run, artifact) else []
        more += trusted
        if artifact.name == "gguf":
            more += [f"quantization_config={code.name('GgufConfig')}(dequantize=True)", 'dtype="float32"']
        code.lines.append(f"model = {code.name(auto_name(run))}.from_pretrained({', '.join([path, *more])}).eval()")
    settings = [path, *(f"{name}={literal(value)}" for name, value in artifact.tokenizer_arguments.items()), *trusted]
    code.lines.append(f"tokenizer = {code.name('AutoTokenizer')}.from_pretrained({', '.join(settings)})")
    return code


def _add_adapter(run: RunConfig, artifact: Artifact, code: Code) -> None:
    """Add the code that loads the base of an adapter, and the adapter over it."""
    path = literal(artifact.path)
    if code.own_class is None:
        auto, config = code.name(auto_name(run)), code.name("AutoConfig")
    else:
        auto, config = "model_class", "model_class.config_class"
        load_class = code.name("get_class_from_dynamic_module", "transformers.dynamic_module_utils")
        code.lines.append(f'model_class = {load_class}("{BASE}/{code.own_class}", {path})')
    code.lines.append(f'config = {config}.from_pretrained({path}, subfolder="{BASE}")')
    pooler = ", add_pooling_layer=False" if _has_unused_pooler(run, artifact) else ""
    code.lines.append(f"base = {auto}.from_pretrained({_base_arguments(artifact, code)}, config=config{pooler})")
    if run.vocab:
        tokenizer = f"{code.name('AutoTokenizer')}.from_pretrained({path})"
        code.lines.append(f"base.resize_token_embeddings(len({tokenizer}), mean_resizing=False)  # new tokens")
    code.lines.append(f"model = {code.name('PeftModel', 'peft')}.from_pretrained(base, {path}).eval()")


IN_RUN_FOLDER = (
    "transformers has no class for this model, so that peftkit loads it, from the folder of the run: "
    "`pip install peftkit`."
)


def _needs_peftkit(run: RunConfig, artifact: Artifact) -> str | None:
    """Return why transformers and PEFT alone do not load a run, None if they do."""
    if artifact.config.get("pruned_heads") or run.method.traits.has_own_model:
        return IN_RUN_FOLDER
    if run.model.pairs is not None:
        return (
            "The head over two texts that are encoded apart is part of peftkit: `pip install peftkit`, and "
            "`import peftkit` registers it."
        )
    if artifact.name == "adapter" and _target(run).startswith("peftkit."):
        return (
            f"The method {plain(run.method.name)} is part of peftkit and not of PEFT: `pip install peftkit`, and "
            "`import peftkit` registers it."
        )
    if _is_own_type(artifact) and _own_class(run, artifact) is None:  # of an earlier version
        return "The classifier is part of peftkit: `pip install peftkit`, and `import peftkit` registers it."
    return None


def _target(run: RunConfig) -> str:
    return str(run.method.config["_target_"])


def auto_name(run: RunConfig) -> str:
    """Return the name of the class of transformers that loads the model of a run."""
    if kind_of(run.task).name == "retrieval":
        return declared_family(run.model.family, run.model.stand_in).backbone
    return kind_of(run.task).heads[run.model.family]


def _is_own_type(artifact: Artifact) -> bool:
    return str(artifact.config.get("model_type")).startswith((MEAN_POOLING, T5EncoderConfig.model_type))


def _own_class(run: RunConfig, artifact: Artifact) -> str | None:
    """Return the module and the class that config.json of an artifact names, None for a class of transformers."""
    name = (artifact.config.get("auto_map") or {}).get(auto_name(run), "")
    return name if name.startswith(f"{CODE}.") else None


def _has_unused_pooler(run: RunConfig, artifact: Artifact) -> bool:
    """Return whether AutoModel adds a pooler, which a retrieval model does not have."""
    model_type = str(artifact.config.get("model_type"))
    if kind_of(run.task).name != "retrieval" or model_type not in CONFIG_MAPPING:
        return False
    return bool(without_pooler(MODEL_MAPPING[CONFIG_MAPPING[model_type]]))


def _base_arguments(artifact: Artifact, code: Code) -> str:
    """Return the arguments with which `from_pretrained` finds the base of an adapter."""
    base = artifact.base
    if base is None:
        # not as a subfolder: an Auto class would follow adapter_config.json of the folder above
        return literal(f"{artifact.path}/{BASE}")
    if base.kind in ("hub", "cache"):
        revision = "" if base.revision is None else f", revision={literal(base.revision)}"
        return f'{literal(base.name)}{revision}, dtype="float32"'
    return f'{_folder_expression(base, artifact.folder, code)}, dtype="float32"'


def _folder_expression(base: Source, folder: Path, code: Code) -> str:
    """Return a Python expression of the folder of a base, without a path of this machine where it needs none."""
    found = Path(base.folder or base.name)
    for module, path, _ in PACKAGED.values():
        places = (spec.submodule_search_locations or []) if (spec := find_spec(module)) else []
        if str(found) in (str(Path(place, path)) for place in places):
            code.name("find_spec", "importlib.util")
            code.lines.insert(0, f'package = find_spec("{module}").submodule_search_locations[0]')
            return f'f"{{package}}/{path}"'
    if found.is_relative_to(cache_folder()):
        code.modules.add("os")
        code.name("Path", "pathlib")
        cache = 'Path(os.environ.get("PEFTKIT_HOME", "~/.cache/peftkit")).expanduser()'
        code.lines.insert(0, f"cache = {cache}  # of peftkit")
        return f"cache / {literal(found.relative_to(cache_folder()).as_posix())}"
    return literal(str(found) if found.is_absolute() else os.path.relpath(found, folder))


STEERED = """
# audit.steering of result.json names the layer to whose output this is added, at every position
vector = safetensors.torch.load_file({file})["vector"]"""


def _prompt_code(run: RunConfig, artifact: Artifact, code: Code) -> Code:
    """Return code that loads the unchanged base, and reads the prompt."""
    assert is_prompted(run)
    code.modules.add("json")
    auto = code.name("AutoModelForSeq2SeqLM" if run.model.family == "seq2seq" else "AutoModelForCausalLM")
    arguments = _base_arguments(artifact, code)
    steered = ""
    if run.method.config.get("strength"):
        code.modules.add("safetensors.torch")
        steered = STEERED.format(file=literal(f"{artifact.path}/steering.safetensors"))
    file = f"{artifact.path}/prompt.json"
    code.lines += [
        f"model = {auto}.from_pretrained({arguments})  # nothing was trained",
        f'prompt = json.load(open({literal(file)}, encoding="utf-8"))  # template, verbalizer and examples{steered}',
    ]
    return code
