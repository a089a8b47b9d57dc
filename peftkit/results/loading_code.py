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
from peftkit.models.heads import T5EncoderConfig, without_pooler
from peftkit.paths import cache_folder

BASE = "base"  # subfolder of an adapter, with the config of its base, and its weights on request
POOLED = """class {own}Config({config}):
    model_type = "{model_type}"


class {own}({pretrained}):  # the mean over the tokens that are no padding, and a linear layer
    config_class = {own}Config
    base_model_prefix = "{prefix}"{ties}

    def __init__(self, config):
        super().__init__(config)
        self.{prefix} = {encoder}(config{arguments})
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None, **inputs):
        states = self.{prefix}(input_ids=input_ids, attention_mask=attention_mask, **inputs)[0]
        mask = attention_mask[..., None]
        return SequenceClassifierOutput(logits=self.classifier((states * mask).sum(1) / mask.sum(1)))
"""
SPANS = """class T5EncoderConfig(T5Config):
    model_type = "t5_encoder"


class T5EncoderForQuestionAnswering(T5PreTrainedModel):  # scores each token as the start and the end of the answer
    config_class = T5EncoderConfig
    base_model_prefix = "transformer"
    _tied_weights_keys = {"transformer.encoder.embed_tokens.weight": "transformer.shared.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.transformer = T5EncoderModel(config)
        self.qa_outputs = torch.nn.Linear(config.d_model, 2)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **inputs):
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **inputs)[0]
        start, end = self.qa_outputs(states).unbind(dim=-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
"""
SPECIAL = re.compile(r"[\\`*\[\]<>|&]")  # characters that Markdown reads in a line
T5_TIES = '\n    _tied_weights_keys = {"transformer.encoder.embed_tokens.weight": "transformer.shared.weight"}'


@dataclass(frozen=True)
class Artifact:
    """The trained weights that a card describes.

    Args:
        name: adapter, model, merged, prompt or onnx.
        path: where `from_pretrained` finds it: a folder, relative to that of the card, or a Hub id.
        config: config.json of the trained model, of an adapter that of its base; empty of a prompt.
        base: where the base is; None where it is part of the artifact.
        folder: of the card, from which relative paths lead to the base.
    """

    name: str
    path: str
    config: Mapping[str, Any] = field(default_factory=dict)
    base: Source | None = None
    folder: Path = Path()


@dataclass
class Code:
    """Lines of code, the names that they import by module, and why they need another package than PEFT."""

    lines: list[str] = field(default_factory=list)
    imports: dict[str, set[str]] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    classes: str = ""
    needs: str = ""

    def name(self, name: str, module: str = "transformers") -> str:
        """Import a name and return it."""
        self.imports.setdefault(module, set()).add(name)
        return name

    def text(self) -> str:
        """Return the code, with its imports first."""
        modules = [f"import {name}" for name in sorted(self.modules)]
        names = [f"from {module} import {', '.join(sorted(self.imports[module]))}" for module in sorted(self.imports)]
        head = "\n".join([*modules, *names])
        classes = f"\n\n\n{self.classes}\n" if self.classes else "\n"
        return "\n".join([head + classes, *self.lines])


def literal(value: Any) -> str:
    """Return texts and lists of them as Python code, in one line."""
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
    auto, path = _model_class(run, artifact, code), literal(artifact.path)
    pooler = ", add_pooling_layer=False" if _has_unused_pooler(run, artifact) else ""
    if artifact.name == "adapter":
        config = f"{auto}.config_class" if code.classes else _config_class(artifact, code)
        code.lines.append(f'config = {config}.from_pretrained({path}, subfolder="{BASE}")')
        code.lines.append(f"base = {auto}.from_pretrained({_base_arguments(artifact, code)}, config=config{pooler})")
        if run.vocab:
            tokenizer = f"{code.name('AutoTokenizer')}.from_pretrained({path})"
            code.lines.append(f"base.resize_token_embeddings(len({tokenizer}), mean_resizing=False)  # new tokens")
        code.lines.append(f"model = {code.name('PeftModel', 'peft')}.from_pretrained(base, {path}).eval()")
    else:
        code.lines.append(f"model = {auto}.from_pretrained({path}{pooler}).eval()")
    code.lines.append(f"tokenizer = {code.name('AutoTokenizer')}.from_pretrained({path})")
    return code


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
    if artifact.name == "adapter" and _is_pooled(artifact) and run.method.traits.lengthens_text:
        return "PEFT's soft prompts and mean pooling need peftkit's classifier: `pip install peftkit`."
    return None


def _target(run: RunConfig) -> str:
    return str(run.method.config["_target_"])


def _is_pooled(artifact: Artifact) -> bool:
    return str(artifact.config.get("model_type")).startswith((MEAN_POOLING, T5EncoderConfig.model_type))


def _model_class(run: RunConfig, artifact: Artifact, code: Code) -> str:
    """Return the name of the class that loads the model; one that transformers lacks is defined by the code."""
    kind, family = kind_of(run.task), run.model.family
    if kind.name == "retrieval":
        return code.name(declared_family(family, run.model.stand_in).backbone)
    auto = kind.heads[family]
    if not _is_pooled(artifact) or "peftkit" in code.modules:
        return code.name(auto)
    is_t5 = artifact.config["model_type"] == T5EncoderConfig.model_type
    if is_t5 and not kind.has_sequence_head:
        return _t5_class(kind.name, code)
    code.modules.add("torch")
    code.name("SequenceClassifierOutput", "transformers.modeling_outputs")
    base_type = "t5" if is_t5 else str(artifact.config["model_type"]).removeprefix(MEAN_POOLING)
    config_class = CONFIG_MAPPING[base_type]
    encoder: Any = MODEL_MAPPING[config_class]
    own = "T5Encoder" if is_t5 else f"MeanPooling{encoder.__name__.removesuffix('Model')}"
    code.classes = POOLED.format(
        own=own,
        config=code.name(config_class.__name__),
        model_type=artifact.config["model_type"],
        pretrained=code.name(encoder.__base__.__name__),
        prefix="transformer" if is_t5 else encoder.base_model_prefix,
        encoder=code.name("T5EncoderModel" if is_t5 else encoder.__name__),
        arguments=", add_pooling_layer=False" if without_pooler(encoder) else "",
        ties=T5_TIES if is_t5 else "",
    )
    return own


def _t5_class(kind: str, code: Code) -> str:
    """Return the class of T5's encoder with a head over each token."""
    if kind == "token_classification":
        return code.name("T5ForTokenClassification")
    code.modules.add("torch")
    code.name("QuestionAnsweringModelOutput", "transformers.modeling_outputs")
    for name in ("T5Config", "T5EncoderModel", "T5PreTrainedModel"):
        code.name(name)
    code.classes = SPANS
    return "T5EncoderForQuestionAnswering"


def _config_class(artifact: Artifact, code: Code) -> str:
    is_plain_t5 = artifact.config.get("model_type") == T5EncoderConfig.model_type and "peftkit" not in code.modules
    return code.name("T5Config" if is_plain_t5 else "AutoConfig")


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
