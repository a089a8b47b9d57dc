"""Turn every method, family and head into a cell that was tried: right, refused with its reason, or wrong."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset

from peftkit.config import (
    EarlyStopping,
    MethodConfig,
    ModelConfig,
    RunConfig,
    Search,
    TaskConfig,
    UserError,
    is_prompted,
)
from peftkit.config.checks import mismatches
from peftkit.config.source import Source
from peftkit.data.formats import Encoded
from peftkit.data.labels import label_feature
from peftkit.data.miniglue import sentences
from peftkit.methods import is_mergeable, load_adapter, merge
from peftkit.models.load import auto_class, load_model, load_tokenizer
from peftkit.models.tiny import tiny_checkpoints
from peftkit.paths import conf_folder
from peftkit.pipeline import verify
from peftkit.pipeline.build import TrainingBundle, build, output_reader
from peftkit.pipeline.export import export_artifact
from peftkit.pipeline.prompting import format_for, read_shots, save_prompt
from peftkit.results.console import log
from peftkit.results.run_folder import write_text

FAMILIES = {
    "bert": "bert",
    "minilm": "bert",
    "distilbert": "distilbert",
    "roberta": "roberta",
    "gpt2": "gpt2",
    "t5": "t5",
    "t5_encoder": "t5",
}  # model part: whose checkpoint
HEADS = ("classification", "regression", "token_classification", "question_answering", "causal_lm", "seq2seq")
STEPS, EXACT = 8, 1e-5  # of scores about one in size, in fp32
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
NOUNS, VERBS = ("actor", "writer", "critic"), ("praised", "saw", "left")


@dataclass(frozen=True)
class Cell:
    """One method on one family with one head: status is right, refused or wrong, and why.

    `checks` of a right cell says what else holds: merges, several (adapters), mixed (batches), 4-bit.
    """

    method: str
    model: str
    head: str
    status: str
    reason: str | None
    checks: dict[str, bool]


def matrix(run: RunConfig) -> None:
    """Probe every cell on tiny models, and write matrix.md and matrix.json to `output`, else to docs/reference/."""
    target = Path(run.output or "docs/reference")
    cells = []
    for method in methods():
        found = [cell for model in FAMILIES for cell in probe(method, model)]
        cells += found
        told = {status: sum(cell.status == status for cell in found) for status in ("right", "refused", "wrong")}
        log(f"{method.name:>20}  " + ", ".join(f"{count} {status}" for status, count in told.items() if count))
    write_text(target / "matrix.json", json.dumps([cell.__dict__ for cell in cells], indent=1) + "\n")
    write_text(target / "matrix.md", page(cells))
    log(f"-> {target / 'matrix.md'}, {target / 'matrix.json'}")
    if wrong := [cell for cell in cells if cell.status == "wrong"]:
        raise verify.GateError(f"{len(wrong)} cells are wrong, {wrong[0].method} on {wrong[0].model} the first")


def methods() -> list[MethodConfig]:
    """Return the methods of conf/method."""
    found = []
    for file in sorted((conf_folder() / "method").glob("*.yaml")):
        settings = yaml.safe_load(file.read_text())
        if settings["config"]["_target_"] == "???":
            continue
        settings["learning_rate"] = float(settings["learning_rate"])
        found.append(MethodConfig(**settings))
    return found


def probe(method: MethodConfig, model: str, heads: tuple[str, ...] = HEADS) -> Iterator[Cell]:
    """Yield a cell for each head that the family has."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder = tiny_checkpoints(root, list(sentences(300)))[FAMILIES[model]]
        for head in heads:
            run = run_of(method, model, folder, head)
            reasons = mismatches(run)
            if any("which has no head for task=" in reason for reason in reasons):
                continue  # not of this family
            try:
                if reasons:
                    raise UserError("; ".join(reasons))
                yield Cell(method.name, model, head, "right", None, _check(run, folder, root / head))
            except UserError as error:
                yield Cell(method.name, model, head, "refused", str(error), {})
            except Exception as error:  # whatever it is, the cell says so
                yield Cell(method.name, model, head, "wrong", f"{type(error).__name__}: {error}".splitlines()[0], {})


def run_of(method: MethodConfig, model: str, checkpoint: Path, head: str) -> RunConfig:
    """Return a run of a method on a tiny checkpoint with a head."""
    part = yaml.safe_load((conf_folder() / "model" / f"{model}.yaml").read_text())
    text = {"token_classification": ["text"], "question_answering": ["question", "text"]}.get(head, ["text"])
    task = TaskConfig(
        name=head, suite="own", dataset=str(checkpoint / "config.json"), subset=None, revision="main", kind=head,
        text=text, label=None if head == "causal_lm" else "label", labels=None,
        splits={"train": "train", "validation": ["validation"]}, metrics=[METRIC[head]], template=None, max_length=32,
        max_train_samples=None, max_eval_samples=None, stride=4 if head == "question_answering" else None,
    )  # fmt: skip
    chosen = RunConfig(
        job="finetune", source="offline", data_root=None, seed=0, trial=False, out="outputs", force=False, run=None,
        input=None, output=None, early_stopping=EarlyStopping(None, 0.1), search=Search(None, 1),
        model=ModelConfig(**{**part, "checkpoint": str(checkpoint)}), method=method, task=task,
        train={"num_train_epochs": STEPS, "per_device_train_batch_size": 8, "bf16": False, "learning_rate": 1e-2},
    )  # fmt: skip
    if is_prompted(chosen) and head == "regression":  # between which words its numbers lie has no default
        task.verbalizer = {"0": "no", "2.5": "yes"}
    return chosen


METRIC = dict(
    zip(HEADS, ("accuracy", "pearson", "token_accuracy", "exact_match", "perplexity", "rouge_l"), strict=True)
)
NAMES = {"classification": ["no", "yes"], "token_classification": ["NOUN", "VERB", "X"]}


def rows_of(task: TaskConfig) -> Dataset:
    """Return six rows of unlike lengths."""
    rows: dict[str, list] = {"id": [], **{column: [] for column in task.text}, "label": []}
    for number in range(6):
        words = [*(["the", NOUNS[number % 3], VERBS[number // 2], "the", "film"] * (1 + number % 3)), "."]
        text = " ".join(words)
        values = {"text": words if task.kind == "token_classification" else text, "question": "who saw it ?"}
        tags = [1 if word in VERBS else 0 if word in (*NOUNS, "film") else 2 for word in words]
        labels: dict[str, Any] = {
            "classification": number % 2, "regression": number / 2, "token_classification": tags,
            "question_answering": {"text": [words[1]], "answer_start": [4]}, "seq2seq": words[1],
        }  # fmt: skip
        rows["id"].append(number)
        rows["label"].append(labels.get(task.kind))
        for column in task.text:
            rows[column].append(values[column])
    table = Dataset.from_dict(rows)
    return table.cast_column("label", label_feature(task))


def _check(run: RunConfig, folder: Path, scratch: Path) -> dict[str, bool]:
    """Try one cell; return what else than being right it can do.

    Raises:
        GateError: it is wrong.
        UserError: it refuses.
    """
    from peft import PeftModel

    source, names, rows = Source("folder", str(folder), folder=str(folder)), NAMES.get(run.task.kind), rows_of(run.task)
    parts, encoded = build(run, source, names, rows)
    if is_prompted(run):
        return _asked(run, parts, rows, scratch)
    _trains(parts, encoded)
    _equal("the padding of a batch", verify.padding_difference(parts, rows), 3e-2 if run.method.quantization else EXACT)
    trained = _scores(parts, encoded)
    artefact = export_artifact(parts, scratch)
    tokenizer = load_tokenizer(source)
    if artefact.name == "model":
        again = auto_class(run.model.family, run.task.kind).from_pretrained(str(artefact))
    else:
        torch.manual_seed(1)  # another head than the trained one
        base = load_model(run.model, source, tokenizer, run.task.kind, names, run.method.quantization)
        again = load_adapter(base, artefact)
    reloaded, exact = TrainingBundle(again.eval(), tokenizer, parts.format), 3e-2 if run.method.quantization else EXACT
    _equal("being saved and loaded", verify.max_difference(trained, _scores(reloaded, encoded)), exact)
    if not isinstance(again, PeftModel):
        return {"merges": True, "several": False, "mixed": False, "4-bit": False}
    torch.manual_seed(1)
    base = load_model(run.model, source, tokenizer, run.task.kind, names, run.method.quantization)
    untouched = _scores(TrainingBundle(base, tokenizer, parts.format), encoded)
    with again.disable_adapter():
        _equal("having been there, disabled,", verify.max_difference(untouched, _scores(reloaded, encoded)), exact)
    found = {"several": _several(run, reloaded, encoded, trained), "mixed": _mixed(reloaded, encoded, trained)}
    found["4-bit"] = _quantized(run, source, names, rows)
    found["merges"] = is_mergeable(again)
    if found["merges"] and not run.method.quantization:
        merged = TrainingBundle(merge(again).eval(), tokenizer, parts.format)
        _equal("merging", verify.max_difference(trained, _scores(merged, encoded)), 1e-4)
    return found


def _asked(run: RunConfig, parts: TrainingBundle, rows: Dataset, scratch: Path) -> dict[str, bool]:
    """Try a cell in which nothing trains, but examples are kept and found again."""
    if any(weight.requires_grad for weight in parts.model.parameters()):
        raise verify.GateError("weights train")
    _equal("the padding of a batch", verify.padding_difference(parts, rows))
    told = _scores(parts, parts.format.encode(rows))
    save_prompt(parts.format, Source("folder", str(scratch)), scratch)
    asked = format_for(run, parts.format.names, parts.tokenizer, read_shots(scratch), parts.model)
    again = TrainingBundle(parts.model, parts.tokenizer, asked)
    _equal("being saved and loaded", verify.max_difference(told, _scores(again, asked.encode(rows))))
    return dict.fromkeys(CHECKS, False)


def _trains(parts: TrainingBundle, encoded: Encoded, steps: int = STEPS) -> None:
    """Take some steps; every weight that trains must get a gradient, and no other may change by a bit."""
    model = parts.model.train()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    frozen = {name: weight.detach().clone() for name, weight in model.named_parameters() if name not in trained}
    batch = parts.format.collator()([encoded.inputs[row] for row in range(len(encoded.inputs))])
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.01)
    reached: set[str] = set()
    if parts.schedule is not None:
        parts.schedule.begin(0, steps, 1)
    for step in range(1, steps + 1):
        loss = model(**batch).loss
        if not math.isfinite(loss.item()):
            raise verify.GateError("the loss is no number")
        loss.backward()
        reached |= {name for name, weight in trained.items() if weight.grad is not None and weight.grad.any()}
        optimizer.step()
        if hasattr(model, "base_model") and hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step)
        if parts.schedule is not None:
            parts.schedule.after(step)
        optimizer.zero_grad()
    if missed := sorted(trained.keys() - reached):
        raise verify.GateError(f"{len(missed)} weights train without a gradient, {missed[0]} the first")
    now = dict(model.named_parameters())
    if changed := [name for name, weight in frozen.items() if not torch.equal(weight, now[name])]:
        raise verify.GateError(f"{len(changed)} frozen weights changed, {changed[0]} the first")
    model.eval()


def _several(run: RunConfig, parts: TrainingBundle, encoded: Encoded, trained: np.ndarray) -> bool:
    """Tell whether another adapter fits beside the first; then the first must say what it said."""
    model = parts.model
    try:
        model.add_adapter("other", model.peft_config["default"])
        model.set_adapter("other")
    except (ValueError, TypeError):
        return False
    other = _scores(parts, encoded)
    model.set_adapter("default")
    _equal("another adapter beside it", verify.max_difference(trained, _scores(parts, encoded)))
    if verify.max_difference(trained, other) < EXACT:
        raise verify.GateError("another adapter says just the same")
    return True


def _mixed(parts: TrainingBundle, encoded: Encoded, trained: np.ndarray) -> bool:
    """Tell whether rows of one batch can have an adapter each, and each says what it says alone."""
    if parts.format.verbalizer_ids is not None or "other" not in parts.model.peft_config:
        return False
    inputs = [encoded.inputs[row] for row in range(len(encoded.inputs))]
    names = ["default" if row % 2 else "other" for row in range(len(inputs))]
    try:
        mixed = _batch_scores(parts, inputs, adapter_names=names)
    except (ValueError, TypeError, NotImplementedError):
        return False
    alone = {}
    for name in ("other", "default"):
        parts.model.set_adapter(name)
        alone[name] = _batch_scores(parts, inputs)
    wanted = np.stack([alone[name][row] for row, name in enumerate(names)])
    return verify.max_difference(wanted, mixed) <= EXACT  # BOFT and OFT take the names and do not heed them


def _quantized(run: RunConfig, source: Source, names: list[str] | None, rows: Dataset) -> bool:
    """Tell whether it trains over a base in 4 bits."""
    four_bits = MethodConfig(**{**run.method.__dict__, "quantization": NF4})
    try:
        parts, encoded = build(RunConfig(**{**run.__dict__, "method": four_bits}), source, names, rows)
        _trains(parts, encoded, steps=4)
    except (UserError, ValueError, TypeError, RuntimeError):
        return False
    return True


def _scores(parts: TrainingBundle, encoded: Encoded) -> np.ndarray:
    return verify.flat(
        parts, _batch_scores(parts, [encoded.inputs[row] for row in range(len(encoded.inputs))]), encoded
    )


def _batch_scores(parts: TrainingBundle, rows: list[dict[str, Any]], **more: Any) -> np.ndarray:
    batch = parts.format.collator()(rows)
    with torch.no_grad():
        return output_reader(parts)(parts.model.eval(), {**batch, **more}).float().numpy()


def _equal(cause: str, difference: float, limit: float = EXACT) -> None:
    if not difference <= limit:
        raise verify.GateError(f"scores change by {difference:.2g} with {cause}")


def page(cells: list[Cell]) -> str:
    """Return the cells as Markdown: a table a family, what else holds, and the reasons of refusals."""
    reasons: dict[str, int] = {}
    names = list(dict.fromkeys(cell.method for cell in cells))
    parts = [HEADER]
    for model in FAMILIES:
        heads = [head for head in HEADS if any(cell.model == model and cell.head == head for cell in cells)]
        found = {(cell.method, cell.head): cell for cell in cells if cell.model == model}
        lines = [f"## {TITLES[model]}", "", _row(["method", *(head.replace("_", " ") for head in heads)])]
        lines.append(_row(["---"] * (len(heads) + 1)))
        for name in names:
            lines.append(_row([name, *(_said(found[name, head], reasons) for head in heads)]))
        parts.append("\n".join(lines))
    lines = ["## What else holds, where a cell is right", "", _row(["method", *CHECKS.values()]), _row(["---"] * 5)]
    for name in names:
        right = [cell for cell in cells if cell.method == name and cell.status == "right"]
        lines.append(_row([name, *(_where(right, check) for check in CHECKS)]))
    parts.append("\n".join(lines))
    if reasons:
        notes = [f"{number}. {reason}" for reason, number in reasons.items()]
        parts.append("\n".join(["## Why a cell refuses", "", *notes]))
    return "\n\n".join(parts) + "\n"


HEADER = """# Every method on every model and head

Written by `python -m peftkit job=matrix`, which tries each cell on a tiny model of the family: it trains, every weight
that trains gets a gradient, no frozen weight changes by a bit, a row says the same alone and in a padded batch, what
was saved says the same when it is loaded, a disabled adapter leaves the base as it was, another adapter beside it
changes nothing, and merging changes nothing (all in fp32, to 1e-5 of a score's size; merging to 1e-4; over a 4-bit
base in bf16, to 3e-2). A number points to the reason of a refusal. What was found of each cell is in matrix.json."""
TITLES = {
    "bert": "BERT (encoders)",
    "minilm": "MiniLM (encoders that pool the mean)",
    "distilbert": "DistilBERT",
    "roberta": "RoBERTa",
    "gpt2": "GPT-2 (decoders)",
    "t5": "T5 (text to text)",
    "t5_encoder": "T5, its encoder alone",
}
CHECKS = {"merges": "merges", "several": "several adapters", "mixed": "mixed batches", "4-bit": "over a 4-bit base"}


def _said(cell: Cell, reasons: dict[str, int]) -> str:
    if cell.status == "right":
        return "right"
    number = reasons.setdefault(str(cell.reason), len(reasons) + 1)
    return f"{cell.status} [{number}]"


def _where(cells: list[Cell], check: str) -> str:
    """Return yes, no, or the families and heads of which it holds."""
    holds = [cell for cell in cells if cell.checks[check]]
    if len(holds) in (0, len(cells)):
        return "yes" if holds else "no"
    models = [model for model in FAMILIES if any(cell.model == model for cell in cells)]
    whole = [model for model in models if all(cell in holds for cell in cells if cell.model == model)]
    others = [f"{cell.model} {cell.head.replace('_', ' ')}" for cell in holds if cell.model not in whole]
    return ", ".join([*whole, *others])


def _row(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"
