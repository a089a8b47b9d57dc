"""format=transformers: a checkpoint that transformers loads without peftkit."""

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
from transformers import AutoTokenizer

from peftkit.config import UserError, kind_of
from peftkit.config.errors import ExportError
from peftkit.data.formats import Predictions
from peftkit.data.formats.classification import SequenceClassificationFormat
from peftkit.methods import is_mergeable, merge_adapter
from peftkit.metrics.calibration import probabilities
from peftkit.models.custom_code import write_code
from peftkit.models.pooling import columns_of
from peftkit.pipeline.artifacts import load_base
from peftkit.pipeline.comparison import EXAMPLES, TOLERANCE, max_difference
from peftkit.pipeline.export import describe_artifact, export_sentence_files
from peftkit.pipeline.exports import fresh
from peftkit.pipeline.exports.base import Exported, ExportSource, reading, write_export_card
from peftkit.pipeline.merged import divide_logits, standalone_tokenizer
from peftkit.results.loading_code import BASE, auto_name


def write_transformers(source: ExportSource, folder: Path) -> Exported:
    """Write model and tokenizer, the adapter merged into its base; one of PEFT that cannot be merged, beside its base.

    The code of a class that transformers lacks is written too. The tokenizer of a classifier truncates to the run's
    `task.max_length`, and its logits are divided by the temperature of the run.

    Raises:
        UserError: the class of the model needs peftkit.
        ExportError: the tokenizer gives other tokens.
    """
    bundle, is_merged, temperature = source.bundle, is_mergeable(source.bundle.model), 1.0
    standalone_tokenizer(source.run, bundle.tokenizer).save_pretrained(str(folder))
    check_tokenizer(source, folder)
    if is_merged:
        bundle.model = model = merge_adapter(bundle.model)
        temperature = divide_logits(source.run, model)
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
        with reading():
            loaded = PeftModel.from_pretrained(loaded, str(folder))
    whole = "model" if (source.run.folder / "model").is_dir() else "merged"
    artifact = describe_artifact(folder, whole if is_merged else "adapter", ".", None)
    write_export_card(source, folder, replace(artifact, is_calibrated=temperature != 1))
    details = {"class": type(model).__name__, "auto_class": auto_name(source.config), "trust_remote_code": is_custom}
    written = Exported(loaded.eval(), {**details, "base": None if is_merged else BASE}, temperature=temperature)
    return replace(written, check=partial(check_without_peftkit, source, folder, written))


def _save_model(model: Any, folder: Path) -> bool:
    """Save a model, and the code of its class where transformers lacks it; return whether it does.

    Raises:
        UserError: the class needs more of peftkit than one module.
    """
    model.save_pretrained(str(folder))
    if write_code(model, folder):
        return True
    if not type(model).__module__.startswith("transformers."):
        raise UserError(f"transformers has no {type(model).__name__}, a class of peftkit; load the run by peftkit.load")
    return False


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
