"""Checks of the splits and columns of local data files, of which only the first lines are read."""

import json
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from peftkit.config.endings import TEXTS
from peftkit.config.errors import Refusal, UserError, refusal
from peftkit.config.files import (
    CONLLU_COLUMNS,
    SQUAD_COLUMNS,
    check_names,
    check_whole,
    ending_of,
    open_binary,
    open_text,
    parse_json_lines,
    read_cells,
    read_text,
    reading,
    saved_splits,
    split_files,
    visible_files,
)
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import KINDS, kind_of, label_columns
from peftkit.config.quoting import typed
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import listed
from peftkit.config.task import TaskConfig
from peftkit.paths import dataset_path, is_file, is_folder

FIRST_ROWS = 20_000  # of a .jsonl, whose rows may differ in their columns
MAX_JSON = 1 << 24  # bytes of a .json that is parsed, in a tenth of a second


def column_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each local file that lacks a column which the run reads, or that cannot be read."""
    try:
        yield from _task_errors(run) if JOBS[run.job].trains else _input_errors(run)
    except UserError as error:
        yield error.message


def _task_errors(run: RunConfig) -> Iterator[str]:
    task, kind = run.task, kind_of(run.task)
    path = dataset_path(task.dataset) if run.data_root is None else Path(run.data_root) / task.name
    is_generated = run.generates_data or (kind.generators and is_folder(path / "chat"))  # a folder of job=generate
    if is_generated or not (is_file(path) or is_folder(path)):  # refused by the checks of paths
        return
    files = _first_files(task, path)
    if task.kind != "language_modeling" and (message := missing_split(task, list(files), str(path))):
        yield message
        return
    if kind.generators and task.label is None:  # conversations may be in several forms
        return
    wanted = (task.splits["train"], *task.splits["validation"], "corpus")
    for split, file in files.items():
        if split not in wanted:
            continue
        is_train = split == task.splits["train"] and task.label is not None
        needed = [*task.text, *(label_columns(task) if is_train else [])] if task.text else []  # else they are guessed
        needed += [name for name in (task.id, task.domain) if name is not None]
        names = column_names(file, needed)
        if names is not None and (
            message := missing_columns(task, [*names, *_fields(needed, names)], needed, str(file))
        ):
            yield message


def _input_errors(run: RunConfig) -> Iterator[str]:
    """Yield the messages about the input of a job, and the corpus of job=extend."""
    key, file = {
        "embed": ("embed.column", run.input), "extend": ("extend.column", run.extend.corpus),
        "predict": ("", run.input if run.run else None), "forgetting": ("", run.input),
    }.get(run.job, ("", None))  # fmt: skip
    if file is None or not is_file(file) or ending_of(Path(file)) == ".txt":
        return
    if key:
        needed = [run.embed.column if key == "embed.column" else run.extend.column]
    else:
        needed = ["text"] if run.job == "forgetting" else _trained_columns(Path(str(run.run)))
    if (names := column_names(Path(file), needed)) is None:
        return
    for missing in (name for name in needed if name not in {*names, *_fields(needed, names)}):
        nearest = _nearest(missing, names)
        wrong = f"{file} has no column {missing}, but {listed(names, quote_spaces=True)}"
        if not key:
            yield f"{wrong}; rename {listed([nearest or 'a column'], quote_spaces=True)} to {missing}"
        else:
            yield refusal(wrong, typed(key, nearest), verb="set") if nearest else f"{wrong}; set {key}=COLUMN"


def _fields(needed: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the needed names that may be fields of objects, such as text.body of a column text."""
    return [name for name in needed if any(name.startswith(f"{column}.") for column in names)]


def _trained_columns(folder: Path) -> list[str]:
    """Return the columns of texts that a run was trained on; none where they may have several forms."""
    try:
        task = json.loads((folder / "result.json").read_text(encoding="utf-8"))["run"]["config"]["task"]
        kind = KINDS[task["kind"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []  # the run folder has its own check
    return [] if kind.generators else list(task["text"][:1] if kind.name == "preferences" else task["text"])


def has_only_training_split(task: TaskConfig, available: Collection[str]) -> bool:
    """Return whether a tenth of train becomes the validation split, as the user's data has no other split."""
    return (
        task.suite == "own"
        and list(available) == [task.splits["train"] or "train"]
        and list(task.splits["validation"]) == ["validation"]
    )


def missing_split(task: TaskConfig, available: Sequence[str], origin: str) -> str | None:
    """Return the message about a split that the data lacks, which suggests the likeliest one: dev before test."""
    wanted = [name for name in (task.splits["train"], *task.splits["validation"]) if name]
    missing = [name for name in wanted if name not in available]
    if not missing or has_only_training_split(task, available):
        return None
    name = missing[0]
    is_train = name == task.splits["train"]
    others = [other for other in available if is_train or other != task.splits["train"]]
    marks = ("train",) if is_train else ("val", "dev")
    best = min(
        others,
        key=lambda other: (
            not other.startswith(marks),
            not any(mark in other for mark in marks),
            "test" in other,
            other,
        ),
        default="",
    )
    fix = typed("task.splits.train", best) if is_train else typed("task.splits.validation", [best])
    wrong = f"{origin} has the splits {listed(available)}, not {name}"
    return refusal(wrong, fix, verb="set") if others else f"{wrong}; add it"


def missing_columns(task: TaskConfig, names: Collection[str], needed: Sequence[str], where: str) -> str | None:
    """Return the message about the columns of a task that a table lacks, with the overrides that name others."""
    missing = [name for name in needed if name not in names]
    if not missing:
        return None
    nearest = {name: _nearest(name, names) for name in missing}
    text = [nearest.get(name, name) for name in task.text]
    fixes = [typed("task.text", [name or "COLUMN" for name in text])] if {*missing} & {*task.text} else []
    if {*missing} & {*label_columns(task)}:
        labels = [nearest.get(name, name) or "COLUMN" for name in label_columns(task)]
        fixes.append(typed("task.label", labels if isinstance(task.label, list) else labels[0]))
    if task.id in missing:
        fixes.append(typed("task.id", nearest[task.id] or "COLUMN"))
    if task.domain in missing:
        fixes.append(typed("task.domain", nearest[task.domain] or "COLUMN"))
    message = (
        f"{where} has no column {', '.join(missing)}, but {listed(names, quote_spaces=True)}; set {' '.join(fixes)} "
        f"(task={task.name} reads {', '.join(needed)})"
    )
    return Refusal(message, " ".join(fixes)) if all(nearest.values()) else message


def column_names(file: Path, needed: Collection[str]) -> list[str] | None:
    """Return the columns of a file, of a .jsonl until the `needed` ones are found; None where they are not known.

    Raises:
        UserError: the file cannot be read.
    """
    with reading(file):
        names = _names(file, ending_of(file), needed)
    if names == []:
        raise UserError(f"{file}: the file has no rows; add some, or use another file")
    if names is not None:
        check_names(file, names)
    return names


def _names(file: Path, ending: str, needed: Collection[str]) -> list[str] | None:
    if file.name == "dataset_info.json":  # of save_to_disk
        return list(json.loads(file.read_text(encoding="utf-8"))["features"])
    if ending in (".csv", ".tsv"):
        return next(read_cells(file))
    if ending == ".parquet":
        import pyarrow.parquet as pq

        with open_binary(file) as data:
            return list(pq.ParquetFile(data).schema_arrow.names)
    if ending == ".jsonl":
        return _json_columns(file, needed)
    if ending == ".json" and file.stat().st_size <= MAX_JSON:
        return _nested_columns(file, needed)
    return _word_columns(file, ending) if ending in (".conll", ".conllu") else None


def _nested_columns(file: Path, needed: Collection[str]) -> list[str] | None:
    """Return the columns of a list of objects, of SQuAD's articles, or of one object per line."""
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError:
        return _json_columns(file, needed)
    if isinstance(content, dict) and _has_columns(content):
        raise UserError(
            f"{file}: one object with a list for each column; write one object per row, as pandas does by "
            "to_json(FILE, orient='records', lines=True)"
        )
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    if any("paragraphs" in row for row in rows):
        return list(SQUAD_COLUMNS)
    return list(dict.fromkeys(name for row in rows for name in row))


def _has_columns(content: dict[str, Any]) -> bool:
    """Return whether the values of an object are columns: several lists, or objects by row, of one length."""
    cells = list(content.values())
    is_column = all(isinstance(each, list) for each in cells) or all(isinstance(each, dict) for each in cells)
    return is_column and len(cells) > 1 and len({len(each) for each in cells}) == 1 and len(cells[0]) > 1


def _word_columns(file: Path, ending: str) -> list[str] | None:
    """Return the columns of a CoNLL file by its first word; some of them may number the words."""
    with open_text(file) as lines:
        lines_of_words = (line.strip() for line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-")))
        cells = next((line.split("\t" if "\t" in line else None) for line in lines_of_words), [])
    if ending == ".conllu" or (len(cells) == len(CONLLU_COLUMNS) and cells[0].isdigit()):
        return list(CONLLU_COLUMNS)
    return ["tokens", *(f"column_{number}" for number in range(2, len(cells))), "tags"] if cells else None


def _json_columns(file: Path, needed: Collection[str]) -> list[str] | None:
    names: dict[str, None] = {}
    with open_text(file, newline="\n") as lines:
        for number, (_, row) in enumerate(parse_json_lines(file, lines), start=1):
            if not isinstance(row, dict) or number > FIRST_ROWS:
                return None
            names |= dict.fromkeys(row)
            if names.keys() >= {*needed}:
                break
    return list(names)


def _first_files(task: TaskConfig, path: Path) -> dict[str, Path]:
    """Return the first file of each split that there is."""
    if task.kind == "language_modeling":
        files = [path] if path.is_file() else visible_files(path, TEXTS, is_deep=True)
        return {"corpus": files[0]} if files else {}
    if path.is_file():
        check_whole(path)
        return {"train": path}
    wanted = [name for name in (task.splits["train"], *task.splits["validation"]) if name]
    if (saved := saved_splits(path)) is not None:
        return {name: folder / "dataset_info.json" for name, folder in saved.items()}
    return {name: shards[0] for name, shards in split_files(path, wanted).items()}


def _nearest(name: str, names: Collection[str]) -> str | None:
    """Return the name that differs least, ignoring case and spaces around it; None where none is near."""
    folded = {each.strip().casefold(): each for each in names}
    close = get_close_matches(name.strip().casefold(), folded, n=1)
    return folded[close[0]] if close else None
