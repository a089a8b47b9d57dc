"""format=transformers: a checkpoint that transformers loads without peftkit."""

import copy
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoTokenizer

from peftkit.config import UserError, kind_of
from peftkit.config.errors import ExportError
from peftkit.config.families import declared_family
from peftkit.data.formats import Predictions
from peftkit.data.formats.classification import SequenceClassificationFormat
from peftkit.methods import is_mergeable, merge_adapter
from peftkit.metrics.calibration import probabilities
from peftkit.models import classifiers
from peftkit.models.heads import is_above_base
from peftkit.models.pooling import columns_of
from peftkit.pipeline.artifacts import load_base
from peftkit.pipeline.comparison import EXAMPLES, TOLERANCE, max_difference
from peftkit.pipeline.export import export_sentence_files
from peftkit.pipeline.exports import fresh
from peftkit.pipeline.exports.base import Exported, ExportSource, reading

CODE = "modeling_peftkit"  # the module with the classes that transformers lacks
BASE = "base"  # the folder of the base of an adapter that is not merged


def write_transformers(source: ExportSource, folder: Path) -> Exported:
    """Write model and tokenizer, the adapter merged into its base; one of PEFT that cannot be merged, beside its base.

    The code of a class that transformers lacks is written too. The tokenizer of a classifier truncates to the run's
    `task.max_length`, and its logits are divided by the temperature of the run.

    Raises:
        UserError: the class of the model needs peftkit.
        ExportError: the tokenizer gives other tokens.
    """
    bundle, kind = source.bundle, kind_of(source.config.task)
    tokenizer = copy.copy(bundle.tokenizer)
    if kind.has_sequence_head:
        tokenizer.model_max_length = min(tokenizer.model_max_length, source.config.task.max_length)
    tokenizer.save_pretrained(str(folder))
    check_tokenizer(source, folder)
    is_merged, temperature = is_mergeable(bundle.model), 1.0
    if is_merged:
        bundle.model = model = merge_adapter(bundle.model)
        if kind.has_label_probabilities and source.run.temperature != 1:
            temperature = source.run.temperature if _divide_logits(model, source.run.temperature) else 1.0
        export_sentence_files(bundle, folder)
    else:
        model = load_base(source.run, bundle.tokenizer, quantized=False)
    base = folder if is_merged else folder / BASE
    is_custom = _save_model(model, base)
    with reading():
        loaded: Any = type(model).from_pretrained(str(base))
    if not is_merged:
        bundle.model.peft_config["default"].base_model_name_or_path = BASE
        bundle.model.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card
        with reading():
            loaded = PeftModel.from_pretrained(loaded, str(folder))
    details = {"class": type(model).__name__, "auto_class": auto_name(source), "trust_remote_code": is_custom}
    written = Exported(loaded.eval(), {**details, "base": None if is_merged else BASE}, temperature=temperature)
    return replace(written, check=partial(check_without_peftkit, source, folder, written))


def _save_model(model: Any, folder: Path) -> bool:
    """Save a model, and the code of its class where transformers lacks it; return whether it does.

    Raises:
        UserError: the class needs more of peftkit than one module.
    """
    module = type(model).__module__
    is_custom = not module.startswith("transformers.")
    if is_custom and module != classifiers.__name__:
        raise UserError(f"transformers has no {type(model).__name__}, a class of peftkit; load the run by peftkit.load")
    model.save_pretrained(str(folder))
    if is_custom:
        _write_code(model, folder)
    return is_custom


@torch.no_grad()
def _divide_logits(model: Any, temperature: float) -> bool:
    """Divide the weights of a classifier's output layer, and with them its logits; return whether it has one."""
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_above_base(model, name) and module.out_features == model.num_labels
    ]
    for weight in layers[-1].parameters() if layers else ():
        weight.div_(temperature)
    return bool(layers)


def auto_name(source: ExportSource) -> str:
    """Return the name of the class of transformers that loads the model of a run."""
    config = source.config
    if kind_of(config.task).name == "retrieval":
        return declared_family(config.model.family, config.model.stand_in).backbone
    return kind_of(config.task).heads[config.model.family]


def _write_code(model: Any, folder: Path) -> None:
    """Write the module with a model's class, and name it in config.json."""
    name, config_name = type(model).__name__, type(model.config).__name__
    code = Path(classifiers.__file__).read_text(encoding="utf-8")
    if not hasattr(classifiers, name):
        encoder = model.config.model_type.removeprefix(classifiers.MEAN_POOLING)
        code += f'\n\n{config_name}, {name} = mean_pooling_classes("{encoder}")\n'
    (folder / f"{CODE}.py").write_text(code, encoding="utf-8")
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    auto = f"AutoModelFor{name.rpartition('For')[2]}"
    config["auto_map"] = {"AutoConfig": f"{CODE}.{config_name}", auto: f"{CODE}.{name}"}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_tokenizer(source: ExportSource, folder: Path, **arguments: Any) -> None:
    """Raise an error where the tokenizer of an export gives other tokens than the run for an example.

    Args:
        arguments: of `from_pretrained`.

    Raises:
        ExportError: it does.
    """
    with reading():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **arguments)
        encoded = replace(source.bundle.format, tokenizer=tokenizer).encode(source.examples)
    names = [name for name in encoded.inputs.column_names if name.endswith("input_ids")]
    before, after = (each.select_columns(names)[:] for each in (source.encoded.inputs, encoded.inputs))
    if before != after:
        raise ExportError("the tokenizer of the export gives other tokens than the run's; nothing is written")


def check_without_peftkit(source: ExportSource, folder: Path, written: Exported, before: Predictions) -> None:
    """Compare an export with what a process without peftkit loads: by `pipeline` where that classifies texts.

    Args:
        before: the answers of the run.

    Raises:
        ExportError: it cannot be loaded there, or its answers differ.
    """
    kind, config, inputs = kind_of(source.config.task), source.config, _first_inputs(source)
    texts = None
    if kind.pipelines.get(config.model.family) == "text-classification":
        assert isinstance(source.bundle.format, SequenceClassificationFormat)
        rows = zip(*source.bundle.format.input_texts(source.examples[:]), strict=True)
        texts = [row[0] if len(row) == 1 else {"text": row[0], "text_pair": row[1]} for row in rows]
    details = {name: written.details[name] for name in ("auto_class", "trust_remote_code", "base")}
    request = {"folder": str(folder), "texts": texts, "inputs": inputs, **details}
    found = [np.array(each) for each in _run_fresh({**request, "threads": torch.get_num_threads()})]
    if texts is None:
        expected = [np.array(each) for each in fresh.first_outputs(written.model.cpu(), inputs)]
    else:
        expected = before.scores
        if kind.has_label_names:
            several = kind.several_labels
            expected = [*probabilities(np.stack(before.scores), written.temperature, several)]
    difference = max_difference(np.concatenate(expected), np.concatenate(found))
    if not difference <= TOLERANCE["fp32"]:  # also NaN
        raise ExportError(
            f"the answers of the export in a process without peftkit differ by {difference:.2g} from the run's, so "
            "that nothing is written"
        )


def _first_inputs(source: ExportSource) -> list[dict[str, list[int]]]:
    """Return the inputs of the first examples, or of one of their texts, by the names of the model's arguments."""
    found, collate = [], source.bundle.format.collator()
    for number in range(min(EXAMPLES, len(source.encoded.lengths))):
        first = columns_of(collate([source.encoded.inputs[number]]))[0]
        found.append({name: first[name][0].tolist() for name in ("input_ids", "attention_mask")})
    return found


def _run_fresh(request: dict[str, Any]) -> list[list[float]]:
    """Return the response of a fresh process.

    Raises:
        ExportError: it failed.
    """
    with tempfile.TemporaryDirectory() as modules:  # where transformers copies the code of a checkpoint to
        done = subprocess.run(
            [sys.executable, "-I", fresh.__file__],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules},
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"a process without peftkit cannot load the export: {reason}; nothing is written")
    return json.loads(done.stdout)  # type: ignore[no-any-return]
