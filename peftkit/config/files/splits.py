"""Files of a folder by split: shards together, without the files that systems and programs add."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from peftkit.config.console import assume
from peftkit.config.endings import FILES
from peftkit.config.errors import UserError
from peftkit.config.files.content import ending_of, stem_of

SHARD = re.compile(r"(.+?)[-_.](\d+)[-_.]of[-_.](\d+)(?:[-_.]\w+)?")  # train-00000-of-00002, also with a hash after it
NUMBERED = re.compile(r"(.+?)[-_.](?:(?:part|shard|chunk)[-_.]?)?(\d+)")  # train_0, train-part-1
USUAL_SPLIT = re.compile(r"train(ing)?|val(id(ation)?)?|dev|test|eval", re.IGNORECASE)
USUAL_JSON = re.compile(rf"({USUAL_SPLIT.pattern})([-_.]?v?\d[\d.]*)?", re.IGNORECASE)  # train-v2.0


def visible_files(folder: Path, endings: Collection[str], is_deep: bool = False) -> list[Path]:
    """Return the files with one of the endings, sorted, without hidden ones and those that macOS adds."""
    return [
        file
        for file in sorted(folder.rglob("*") if is_deep else folder.glob("*"))
        if not any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)
        and file.is_file()
        and ending_of(file) in endings
    ]


def split_files(folder: Path, named: Collection[str] = ()) -> dict[str, list[Path]]:
    """Return the files of each split of a folder, in the order of their shards.

    A .json next to other files is one only if its name is that of a split, or one of `named`. Where there are no files,
    the subfolders may be splits, or a subfolder data may have them.

    Raises:
        UserError: there are no files, a shard is missing, or two files are the same split.
    """
    files = visible_files(folder, FILES)
    kept = _without_stray_json(folder, files, named)
    deeper: dict[Path, list[Path]] = defaultdict(list)
    for file in () if kept else visible_files(folder, FILES, is_deep=True):
        deeper[file.parent].append(file)
    deeper.pop(folder, None)
    if [*deeper] == [folder / "data"]:
        return split_files(folder / "data", named)
    splits, shards = _split_folders(folder, deeper, named) if deeper else _sharded(folder, kept or files, named)
    if not splits:
        hint = f"use the folder {min(deeper)}" if deeper else "use a folder with train.*"
        raise UserError(f"{folder} has no csv, tsv, jsonl or parquet files; {hint}")
    for name in shards:
        assume(f"{folder}: {name} has {len(splits[name])} files, {splits[name][0].name} to {splits[name][-1].name}")
    return splits


def saved_splits(folder: Path) -> dict[str, Path] | None:
    """Return the folder of each split that `datasets` saved by save_to_disk; None where it did not write this folder.

    Raises:
        UserError: a split is missing.
    """
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        _check_saved(folder)
        return {"train": folder}
    index = folder / "dataset_dict.json"
    if not index.is_file():
        return None
    try:
        names = [str(name) for name in json.loads(index.read_text(encoding="utf-8"))["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index} cannot be read; save the dataset again by save_to_disk") from error
    for name in names:
        if Path(name).name != name or not (folder / name / "state.json").is_file():
            raise UserError(f"{folder} lacks the split {name:.60} that {index.name} names; save the dataset again")
        _check_saved(folder / name)
    return {name: folder / name for name in names}


def _check_saved(folder: Path) -> None:
    """Raise UserError where a file of a split that `datasets` saved is missing."""
    state = folder / "state.json"
    try:
        names = [str(each["filename"]) for each in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{state} cannot be read; save the dataset again by save_to_disk") from error
    if missing := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
        raise UserError(
            f"{folder} lacks {missing[0]:.60}, one of {len(names)} files that {state.name} names; copy it there, or "
            "save the dataset again by save_to_disk"
        )


def check_whole(file: Path) -> None:
    """Raise UserError where a file is one of several of a split."""
    match = SHARD.fullmatch(stem_of(file))
    if match and int(match[3]) > 1:
        raise UserError(
            f"{file} is one of {int(match[3])} files of the split {match[1]}; use their folder, {file.parent}"
        )


def _sharded(folder: Path, files: list[Path], named: Collection[str]) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each split, and the splits of several files."""
    splits: dict[str, list[Path]] = {}
    counted: dict[str, dict[int, Path]] = defaultdict(dict)  # shards by their number, of a known total
    numbered: dict[str, dict[int, Path]] = defaultdict(dict)
    totals: dict[str, set[int]] = defaultdict(set)
    for file in files:
        stem = stem_of(file)
        if (match := SHARD.fullmatch(stem)) and stem not in named:
            _add(folder, counted[match[1]], int(match[2]), file, match[1])
            totals[match[1]].add(int(match[3]))
        elif (match := NUMBERED.fullmatch(stem)) and stem not in named and _is_split(match[1], named):
            _add(folder, numbered[match[1]], int(match[2]), file, match[1])
        elif splits.setdefault(stem, [file]) != [file]:
            raise UserError(
                f"{folder} has two files for the split {stem}, {splits[stem][0].name} and {file.name}; "
                "remove one of them"
            )
    for name, shards in counted.items():
        _check_shards(folder, name, shards, totals[name])
    for name, shards in list(numbered.items()):
        if len(shards) < 2 or min(shards) > 1:  # years, or versions
            splits |= {stem_of(file): [file] for file in numbered.pop(name).values()}
        else:
            _check_shards(folder, name, shards, {max(shards) + 1 - min(shards)})
    for name, shards in (*counted.items(), *numbered.items()):
        if name in splits:
            raise UserError(
                f"{folder} has {splits[name][0].name} and shards of the split {name}, such as "
                f"{shards[min(shards)].name}; remove either"
            )
        splits[name] = [shards[number] for number in sorted(shards)]
    return splits, [name for name in (*counted, *numbered) if len(splits[name]) > 1]


def _split_folders(
    folder: Path, found: Mapping[Path, list[Path]], named: Collection[str]
) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each subfolder that is named as a split, and the splits of several files."""
    splits = {
        each.name: _without_stray_json(each, files, named) or files
        for each, files in found.items()
        if each.parent == folder and _is_split(each.name, named)
    }
    for name, files in splits.items():
        # their numbers are those of a split too, whatever their names are
        parts, _ = _sharded(folder / name, files, ())
        splits[name] = [file for part in parts.values() for file in part]
        if len(endings := sorted({ending_of(file) for file in files})) > 1:
            raise UserError(f"{folder / name} has files of {' and '.join(endings)}; convert them to one of these")
    return splits, [name for name, files in splits.items() if len(files) > 1]


def _add(folder: Path, shards: dict[int, Path], number: int, file: Path, name: str) -> None:
    if number in shards:
        raise UserError(
            f"{folder} has two files for shard {number} of {name}, {shards[number].name} and {file.name}; "
            "remove one of them"
        )
    shards[number] = file


def _check_shards(folder: Path, name: str, shards: dict[int, Path], totals: set[int]) -> None:
    """Raise UserError where a shard is missing, or the names or types of the shards do not match."""
    if len(totals) > 1:
        raise UserError(
            f"{folder} has shards of {name} of {' and of '.join(map(str, sorted(totals)))}; remove one set of them"
        )
    (total,) = totals
    first = 1 if 0 not in shards and max(shards) == total else 0  # numbers begin with 0 or 1
    if missing := sorted({*range(first, first + total)} - {*shards}):
        raise UserError(
            f"{folder} has {len(shards)} of {total} files of the split {name}: number {missing[0]} is missing; add it"
        )
    if len(endings := sorted({ending_of(file) for file in shards.values()})) > 1:
        raise UserError(f"{folder} has shards of {name} as {' and '.join(endings)}; convert them to one of these")


def _without_stray_json(folder: Path, files: list[Path], named: Collection[str]) -> list[Path]:
    """Return the files without .json files whose names are not those of splits, such as dataset_info.json."""
    stray = [
        file
        for file in files
        if ending_of(file) == ".json" and not USUAL_JSON.fullmatch(_split_name(file)) and _split_name(file) not in named
    ]
    if stray and len(stray) < len(files):
        assume(f"{folder}: left out, as they are no splits: {', '.join(file.name for file in stray)}")
    return [file for file in files if file not in stray]


def _is_split(name: str, named: Collection[str]) -> bool:
    return name in named or USUAL_SPLIT.fullmatch(name) is not None


def _split_name(file: Path) -> str:
    match = SHARD.fullmatch(stem_of(file))
    return match[1] if match else stem_of(file)
