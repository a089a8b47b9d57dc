"""CoNLL files: one word per line with its tag, and a blank line after each sentence."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from peftkit.config import UserError
from peftkit.config.console import assume
from peftkit.config.files import CONLLU_COLUMNS, ending_of, read_text
from peftkit.config.tag_schemes import SPAN_TAG

COUNTER = re.compile(r"(.*?)(\d+)[.):\]]?")  # 3, 3. or s1:3
NO_WORD = re.compile(r"\d+[-.]\d+")  # numbers of a multiword token and of an empty node, as CoNLL-U has them
MIN_STEPS = 2  # from word to word in all sentences, for a column to be recognized as one that counts
Sentence = list[list[str]]  # words, cells


def read_conll(path: Path) -> dict[str, list]:
    """Return columns with a list of cells for each sentence: tokens, column_2 ..., tags; those of CoNLL-U for .conllu.

    Comments, and leading columns that count words or sentences, are left out, and this is logged.

    Raises:
        UserError: a line has another number of columns, or no column has words or tags.
    """
    lines = {number: line.rstrip("\r") for number, line in enumerate(read_text(path).split("\n"), start=1)}
    if ending_of(path) == ".conllu":
        # lines without a number are comments, multiword tokens or empty nodes
        lines = {number: line for number, line in lines.items() if not line.strip() or line.split("\t")[0].isdigit()}
        sentences = _sentences(path, lines, len(CONLLU_COLUMNS), is_universal=True)
        return {name: cells for name, cells in _columns(sentences, CONLLU_COLUMNS).items() if name != "id"}
    lines = {number: "" if line.startswith("-DOCSTART-") else line.strip(" \t") for number, line in lines.items()}
    comments = _comments(lines)
    lines = {number: line for number, line in lines.items() if number not in comments}
    width = len(_cells(next(filter(None, lines.values()), "")))
    sentences = _sentences(path, lines, max(width, 2))
    sentences, counters = _without_counters(path, sentences)
    if left_out := [
        *([f"{counters} leading columns with the numbers of words or sentences"] if counters else []),
        *([f"{len(comments)} comments"] if comments else []),
    ]:
        assume(f"{path}: left out {' and '.join(left_out)}")
    firsts, lasts = ({cells[place] for sentence in sentences for cells in sentence} for place in (0, -1))
    if len(firsts) < len(lasts) and all(map(SPAN_TAG.fullmatch, firsts)):
        raise UserError(f"{path}: the first column has the tags, and the last one words; write the words first")
    if width == len(CONLLU_COLUMNS) and counters == 1:
        assume(f"{path}: read as CoNLL-U, as it has its {width} columns")
        return _columns(sentences, CONLLU_COLUMNS[1:])
    names = ("tokens", *(f"column_{number}" for number in range(2, width - counters)), "tags")
    return _columns(sentences, names)


def _comments(lines: dict[int, str]) -> set[int]:
    """Return the numbers of the comment lines, which begin with "# ", or as in CoNLL-2012 with "#begin document".

    A "#" may be a token too. It is one where its line has as many columns as the others, and its tag occurs at other
    words, or may be a tag: not at the beginning of a sentence, and of the form of the others if they are tags of spans.
    """
    words = [line for line in lines.values() if line and not line.startswith("#")]
    width, is_tabbed = (len(_cells(words[0])), "\t" in words[0]) if words else (0, False)
    tags = {_cells(line)[-1] for line in words}
    form = SPAN_TAG if all(map(SPAN_TAG.fullmatch, tags)) else re.compile(".*")
    comments: set[int] = set()
    starts_sentence = True
    for number, line in lines.items():
        cells = _cells(line) or [""]
        is_row = len(cells) == width and ("\t" in line) == is_tabbed
        is_token = (
            cells[0] == "#" and is_row and (cells[-1] in tags or (not starts_sentence and form.fullmatch(cells[-1])))
        )
        if line.startswith(("# ", "#\t")) or line == "#":
            comments |= set() if is_token else {number}
        elif line.startswith(("#begin document", "#end document")):
            comments.add(number)
        starts_sentence = not line or number in comments
    return comments


def _sentences(path: Path, lines: dict[int, str], width: int, is_universal: bool = False) -> list[Sentence]:
    """Return the cells of each word of each sentence.

    Raises:
        UserError: a line has not `width` columns.
    """
    sentences: list[Sentence] = [[]]
    for number, line in lines.items():
        if not line.strip():
            sentences.append([])
            continue
        cells = line.split("\t") if is_universal else _cells(line)
        if len(cells) != width:
            raise UserError(f"{path}: line {number} has {len(cells)} columns, not {width}; correct it")
        sentences[-1].append(cells)
    return [sentence for sentence in sentences if sentence]


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]


def _without_counters(path: Path, sentences: list[Sentence]) -> tuple[list[Sentence], int]:
    """Return the sentences without leading columns that count, and the number of those columns."""
    counters = 0
    while sentences and (words := _counted_words(sentences)) is not None:
        if len(words[0][0]) < 2:
            raise UserError(f"{path}: the first column counts words or sentences, and there is none of words; add it")
        sentences, counters = words, counters + 1
    if sentences and _increases([[cells[-1] for cells in sentence] for sentence in sentences]):
        raise UserError(f"{path}: the last column counts words, and is read as their tags; remove it")
    return sentences, counters


def _counted_words(sentences: list[Sentence]) -> list[Sentence] | None:
    """Return the words without their first column, where it counts words or sentences; else None."""
    words = [[cells for cells in sentence if not NO_WORD.fullmatch(cells[0])] for sentence in sentences]
    columns = [[cells[0] for cells in sentence] for sentence in words]
    is_constant = sum(len(column) > 1 for column in columns) > 1 and all(len({*column}) == 1 for column in columns)
    if not all(columns) or not (is_constant or _increases(columns)):
        return None
    return [[cells[1:] for cells in sentence] for sentence in words]


def _increases(columns: Iterable[Sequence[str]]) -> bool:
    """Return whether each column has one text with a larger number from word to word."""
    steps = 0
    for column in columns:
        matches = [COUNTER.fullmatch(cell) for cell in column]
        for before, after in pairwise(matches):
            if before is None or after is None or before[1] != after[1] or int(before[2]) >= int(after[2]):
                return False
            steps += 1
    return steps >= MIN_STEPS


def _columns(sentences: list[Sentence], names: Sequence[str]) -> dict[str, list]:
    columns = [list(zip(*sentence, strict=True)) for sentence in sentences]
    return {name: [list(each[index]) for each in columns] for index, name in enumerate(names)}
