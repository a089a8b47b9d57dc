"""Turn a finished run into scores on other data, predictions on new text, or a merged checkpoint."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets import List

from peftkit import record
from peftkit.card import merging
from peftkit.data.conversations import questions
from peftkit.data.files import read_file
from peftkit.data.rows import load_rows, text_of
from peftkit.jobs import extend, preferring
from peftkit.jobs.answers import answer, evaluate_splits
from peftkit.jobs.artefact import with_sentence_files
from peftkit.jobs.console import is_main, say
from peftkit.jobs.prepare import Parts, announce, find_model, predictor
from peftkit.jobs.prompting import asked_format, kind_of_model, read_shots
from peftkit.methods import load_adapter
from peftkit.methods import merge as merge_adapter
from peftkit.models.load import auto_class, load_model, load_tokenizer, round_as
from peftkit.models.rows import grow
from peftkit.paths import safe_name
from peftkit.schema import FILES, Run, Task, UserError, asks
from peftkit.source import Source

PAIR = "||"  # between two texts of one input


def load(folder: str | Path, quantized: bool = True) -> tuple[Any, Any]:
    """Return the model and the tokenizer of a run folder, ready to predict.

    With `quantized=False` the base of a 4-bit run has the weights that its bits stand for, in full precision.
    """
    parts = load_parts(trained_run(Path(folder)), Path(folder), quantized)
    return parts.model, parts.tokenizer


def evaluate(run: Run, overrides: Sequence[str]) -> Path:
    """Score a finished run on its own validation split, or on another task with the same labels (task=ax)."""
    folder = Path(str(run.run))
    trained = trained_run(folder)
    names = label_names(folder)
    task = _task_of(run.task, trained.task, names, overrides)
    if task.kind != trained.task.kind:
        raise UserError(f"the run answers {trained.task.kind}, task={task.name} is {task.kind}; name one of its kind")
    trained_on = record.read_result(folder)["audit"]["sources"]["data"]["revision"]  # type: ignore[index]
    rows = load_rows(_only_evaluation(task), run.data_root, run.source, trained_on)
    if rows.label_names != names:
        raise UserError(f"the run tells {_list(names)} apart, task={task.name} has {_list(rows.label_names)}")
    chosen = in_batches_of(run, replace(trained, task=task))
    announce(model_source(folder), rows.source)
    reference = preferring.ask(chosen, base_source(trained, folder), rows.splits, words_of(trained, folder))
    parts = load_parts(trained, folder)
    parts.format = asked_format(
        chosen, names, parts.tokenizer, read_shots(folder) if asks(trained) else (), parts.model
    )
    splits = {name: reference.beside(name, parts.format.encode(table)) for name, table in rows.splits.items()}
    is_other = rows.source.revision != trained_on and (task.suite == "own" or task.name == trained.task.name)
    name = f"{task.name}-{_data_name(rows.source)}" if is_other else task.name
    with predictor(chosen, parts) as trainer:
        file = folder / f"predictions-{name}.parquet"
        scores, costs = evaluate_splits(chosen, parts, trainer, splits, rows, file)
    if is_main():
        file = folder / f"evaluation-{name}.json"
        found = {"scores": scores, "costs": costs, "source": rows.source.__dict__, "task": asdict(task)}
        record.write_text(file, json.dumps(found, indent=1) + "\n")
        for metric, entry in scores.items():
            print(f"{task.name} {metric} {entry['value']:.4f}")
        if not scores:
            say(f"{task.name}: the labels are hidden, so there is no score; the predictions are kept")
        say(f"-> {file}")
    return folder


def predict(run: Run) -> None:
    """Label the rows of a file, or one text, and print or write text, prediction and scores."""
    from datasets import Dataset

    folder = Path(str(run.run))
    trained = trained_run(folder)
    columns = list(trained.task.text)
    given = Path(str(run.input))
    is_file = given.suffix in FILES
    if is_file and not given.is_file():
        raise UserError(f"there is no file {given}; name one, or write the text itself: input='a fine film'")
    if trained.task.kind == "preferences":
        preferring.predict(run, trained, folder)
        return
    table = read_file(given) if is_file else Dataset.from_list([_one_row(str(run.input), trained.task)])
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(f"{given} lacks the columns {_list(missing)} that the run reads; rename columns of the file")
    check_room(table, given)
    parts = load_parts(trained, folder)
    if trained.task.kind == "instructions":
        rows, empty, told = questions(trained.task, table)
        if told:
            say(f"{told} of {len(table)} conversations end with an answer, which is left out and given anew")
    else:
        texts = {column: [text_of(trained.task, text) for text in table[column]] for column in columns}
        empty = [row for row in range(len(table)) if not all(texts[column][row] for column in columns)]
        rows = Dataset.from_dict({"id": range(len(table)), **texts, "label": [None] * len(table)})
    encoded = parts.format.encode(rows)
    with predictor(in_batches_of(run, trained), parts) as trainer:
        answers, _ = answer(parts, trainer, encoded)
    labels: list[Any] = [parts.format.told(prediction) for prediction in answers.predictions]
    scores: list[Any] = [row.astype(float).tolist() or None for row in answers.scores]
    for row in empty:
        labels[row] = scores[row] = None
    if encoded.truncated:
        say(f"{encoded.truncated} of {len(table)} rows were longer than {trained.task.max_length} tokens and were cut")
    hand_over(run, answer_table(table, labels, scores), len(empty))


def hand_over(run: Run, out: Any, empty: int) -> None:
    """Write a table of answers, or print the one answer to a text; say how many rows have none."""
    given = Path(str(run.input))
    if empty:
        say(f"{empty} of {len(out)} rows have no text; they are given no prediction")
    if not is_main():
        return
    target = answers_file(run, given) if given.suffix in FILES or run.output else None
    if target is None:
        print(json.dumps(out[0], ensure_ascii=False))
    else:
        write_table(out, target)
        say(f"{len(out)} rows -> {target}")


def merge(run: Run) -> Path:
    """Fold the adapter into its base and write a plain checkpoint that transformers loads."""
    folder = Path(str(run.run))
    if extend.is_vocabulary(folder):
        extend.write_whole(folder, Path(run.output) if run.output else folder / "merged")
        return folder
    trained = trained_run(folder)
    if asks(trained):
        raise UserError(f"{folder} trained nothing, so there is nothing to merge; its base is as it was")
    parts = load_parts(trained, folder, quantized=False)
    merged = merge_adapter(parts.model)
    target = Path(run.output) if run.output else folder / "merged"
    if trained.method.quantization:
        measured = (record.read_result(folder) or {}).get("merge") or {"rows": 0, "reason": "its run was older"}
        say(f"trained over a quantised base; {merging(measured)}")
    merged.save_pretrained(str(target))
    parts.tokenizer.save_pretrained(str(target))
    with_sentence_files(parts, target)
    ours = str(merged.config.model_type).startswith(("mean_pooling_", "t5_encoder"))
    say(f"merged -> {target}" + (" (import peftkit before transformers loads it: its head is ours)" if ours else ""))
    return folder


def trained_run(folder: Path) -> Run:
    """Return the run that a finished folder records.

    Raises:
        UserError: there is no result, or the run has not finished.
    """
    result = record.read_result(folder)
    if result is None:
        raise UserError(
            f"{folder} holds no result.json; run=DIR names a run folder, as outputs/glue/mrpc/.../seed-0-..."
        )
    if result["meta"]["status"] != "finished":
        raise UserError(f"{folder} is {result['meta']['status']}: {result['meta']['reason']}; finish that run first")
    return Run.from_config(result["run"]["config"])


def model_source(folder: Path) -> Source:
    """Return where a run's base came from."""
    entry = dict(record.read_result(folder)["audit"]["sources"]["model"])  # type: ignore[index]
    entry.pop("pooling")
    return Source(**entry)


def base_source(trained: Run, folder: Path) -> Source:
    """Return where a run's base is to be loaded from now."""
    source = model_source(folder)
    return find_model(trained.model, "embedded") if source.kind == "embedded" else source


def label_names(folder: Path) -> list[str] | None:
    """Return the names of the classes that a run tells apart."""
    return record.read_result(folder)["audit"]["label_names"]  # type: ignore[index]


def load_parts(trained: Run, folder: Path, quantized: bool = True) -> Parts:
    """Load what the run saved; the base comes from where it came from then."""
    names = label_names(folder)
    if asks(trained):
        return _asked_parts(trained, folder, names, quantized)
    if (folder / "model").is_dir():
        source, artefact = Source("folder", str(folder / "model"), folder=str(folder / "model")), None
    else:
        source, artefact = base_source(trained, folder), folder / "adapter"
    tokenizer = load_tokenizer(words_of(trained, folder))
    model: Any
    if artefact is None:
        model = auto_class(trained.model.family, trained.task.kind).from_pretrained(source.name)
    else:
        choice = (trained.model, source, tokenizer, trained.task.kind, names)
        base = load_model(*choice, trained.method.quantization)
        if trained.method.quantization and not quantized:
            base = round_as(load_model(*choice), base)
        if trained.vocab is not None:
            grow(base, artefact)
        model = load_adapter(base, artefact)
    return Parts(model.eval(), tokenizer, asked_format(trained, names, tokenizer))


def _asked_parts(trained: Run, folder: Path, names: list[str] | None, quantized: bool) -> Parts:
    """Load the base, and the examples that a run showed it."""
    source = base_source(trained, folder)
    tokenizer = load_tokenizer(source)
    bits = trained.method.quantization if quantized else None
    model = load_model(trained.model, source, tokenizer, kind_of_model(trained), names, bits)
    return Parts(model.eval(), tokenizer, asked_format(trained, names, tokenizer, read_shots(folder), model))


def words_of(trained: Run, folder: Path) -> Source:
    """Return where a run's tokenizer is: with what it saved where it has words, or a chat template, of its own."""
    artefact = folder / ("model" if (folder / "model").is_dir() else "adapter")
    has_own = (
        trained.vocab is not None or trained.task.kind in ("instructions", "preferences") or artefact.name == "model"
    )
    return Source("folder", str(artefact), folder=str(artefact)) if has_own else base_source(trained, folder)


def in_batches_of(run: Run, trained: Run) -> Run:
    """Return the trained run with the evaluation batches that the user asks for now."""
    size = "per_device_eval_batch_size"
    return replace(trained, train=trained.train | ({size: run.train[size]} if size in run.train else {}))


def _task_of(chosen: Task, trained: Task, names: list[str] | None, overrides: Sequence[str]) -> Task:
    """Return the task that the words name, or the run's own with those of its keys changed that the words set."""
    words = [word.lstrip("+") for word in overrides]
    task = chosen
    if not any(word.startswith("task=") for word in words):
        keys = {word.partition("=")[0].split(".")[1] for word in words if word.startswith("task.")}
        task = replace(trained, **{key: getattr(chosen, key) for key in keys})
    is_own = task.labels is None and task.kind in ("classification", "token_classification")
    return replace(task, labels=names) if is_own else task


def _data_name(source: Source) -> str:
    """Return what tells data apart in a file's name: its own name, and the start of its revision."""
    return f"{safe_name(Path(source.name).stem)}-{str(source.revision)[:8]}"


def _only_evaluation(task: Task) -> Task:
    return replace(task, splits={**task.splits, "train": None})


def _one_row(text: str, task: Task) -> dict[str, str]:
    columns = list(task.text)
    parts = [part.strip() for part in text.split(PAIR)] if len(columns) > 1 else [text]
    if task.kind == "instructions":
        parts += [""] * (len(columns) - len(parts))  # an instruction may have no input
    if len(parts) != len(columns):
        raise UserError(f"the run reads {_list(columns)}; write both, with {PAIR} between: input='first {PAIR} second'")
    return dict(zip(columns, parts, strict=True))


def check_room(table: Any, given: Path) -> None:
    """Refuse a table that has a column where the answers go."""
    if taken := [column for column in ("prediction", "scores") if column in table.column_names]:
        raise UserError(f"{given} has {_list(taken)} already, where the answers go; rename it")


def answer_table(table: Any, labels: list[Any], scores: list[Any]) -> Any:
    """Return the table with a prediction and its scores in each row."""
    return table.add_column("prediction", labels).add_column("scores", scores)


def answers_file(run: Run, given: Path) -> Path:
    """Return where the answers to a file go: output=, or beside it, as jsonl where its own kind holds no answers."""
    suffix = given.suffix if given.suffix in (".csv", ".tsv", ".jsonl", ".parquet") else ".jsonl"
    return Path(run.output or f"{given.with_suffix('')}.predictions{suffix}")


def _cell(values: Any) -> str | None:
    """Return a list as the text of one cell: words apart by spaces, as they are read, anything else as JSON."""
    is_words = values is not None and all(isinstance(value, str) for value in values)
    return None if values is None else " ".join(values) if is_words else json.dumps(values)


def write_table(table: Any, file: Path) -> None:
    """Write a table as its file's ending says."""
    if file.suffix == ".jsonl":
        table.to_json(str(file), force_ascii=False)
    elif file.suffix == ".parquet":
        table.to_parquet(str(file))
    elif file.suffix in (".csv", ".tsv"):
        lists = [name for name in table.column_names if isinstance(table.features[name], List)]
        table = table.map(lambda row: {name: _cell(row[name]) for name in lists})
        is_tsv = file.suffix == ".tsv"  # read_file takes no quotes off a tsv
        table.to_csv(str(file), **({"sep": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if is_tsv else {}))
    else:
        raise UserError(f"output={file} is none of csv, tsv, jsonl and parquet")


def _list(names: Sequence[str] | None) -> str:
    return "numbers" if names is None else ", ".join(names)
