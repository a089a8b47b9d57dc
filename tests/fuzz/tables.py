"""Random data files of every format and kind of task."""

from __future__ import annotations

import copy
import csv
import datetime
import decimal
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from fuzz.oracle import Example

FILE = "data/strange"
NAMES = (
    "text",
    "label",
    "id",
    "idx",
    "input_ids",
    "labels",
    "a.b",
    "a[b]",
    "a b",
    "",
    "text ",
    "名",
    "__index_level_0__",
    "x" * 300,
)
KINDS = ("classification", "regression", "token_classification", "question_answering", "seq2seq", "instructions", "preferences", "causal_lm", "language_modeling", "retrieval")  # fmt: skip
WORDS = (
    "a fine film",
    "dull",
    "the old mill",
    "渡船准时出发",
    "😀",
    "",
    " ",
    "a\tb",
    "a\nb",
    'a "b"',
    "a,b;c",
    "\u202e",
    "e\u0301",
    "\0",
    "=1+1",
    "x" * 2000,
)
LABELS = (
    "pos",
    "neg",
    "Pos",
    "pos ",
    "0",
    "1",
    0,
    1,
    True,
    None,
    1.5,
    "nan",
    float("nan"),
    ["pos"],
    [1, 0],
    {"a": 1},
    "B-PER",
    "O",
)
CELLS: tuple[Any, ...] = (
    *WORDS,
    *LABELS,
    -1,
    10**18,
    1e308,
    float("inf"),
    [],
    {},
    ["a", "b"],
    [["a"]],
    {"role": "user", "content": "a"},
    "2024-01-01",
    "null",
    "N/A",
)
RARE: tuple[Any, ...] = (
    b"abc",
    b"\xff\xfe",
    datetime.datetime(2024, 1, 1),
    decimal.Decimal("1.5"),
    datetime.date(2024, 1, 1),
    datetime.timedelta(1),
)
TAGS = ("O", "B-PER", "I-PER", "L-PER", "U-LOC", "E-PER", "S-LOC", "#", "1", "")


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[str], list[list[Any]]]:
    """Return names and rows; often, most columns have one kind of value."""
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3)) + ["text", "label"]
    number = draw(st.sampled_from([0, 1, 2, 12, 30]))
    columns = []
    for name in names:
        usual = {"text": WORDS[:3], "label": ("pos", "neg")}.get(name, CELLS[:6])
        pool = draw(st.sampled_from([usual, usual, usual, WORDS, LABELS, CELLS]))
        column = draw(st.lists(st.sampled_from(pool), min_size=number, max_size=number))
        if number and draw(st.integers(0, 3)) == 0:
            column[draw(st.integers(0, number - 1))] = draw(st.sampled_from(CELLS))
        columns.append(column)
    return names, [list(row) for row in zip(*columns, strict=True)]


def delimited(names: Sequence[str], table: list[list[Any]], delimiter: str, quoting: int) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, escapechar="\\")  # type: ignore[arg-type]
    writer.writerows([names, *table])
    return file.getvalue().encode("utf-8", "surrogatepass")


def parquet(names: Sequence[str], table: list[list[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = []
    for number in range(len(names)):
        cells = [row[number] for row in table]
        try:
            columns.append(pa.array(cells))
        except (pa.ArrowException, TypeError, OverflowError):
            columns.append(pa.array(list(map(str, cells))))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names=list(names)), sink)
    return sink.getvalue()


@st.composite
def table_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return the ending and the content of a file with columns."""
    names, table = draw(rows())
    ending = draw(st.sampled_from(["csv", "csv", "tsv", "jsonl", "jsonl", "json", "parquet", "txt", "conll"]))
    if ending in ("csv", "tsv", "txt"):
        delimiter = draw(st.sampled_from(["\t"] if ending == "tsv" else [",", ",", ";", "|", "\t"]))
        return ending, delimited(
            names, table, delimiter, draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]))
        )
    if ending == "parquet":
        rare = draw(st.sampled_from([None, *RARE]))
        table = (
            table
            if rare is None
            else [[rare if name == "id" else cell for name, cell in zip(names, row, strict=True)] for row in table]
        )
        return ending, parquet(names, table)
    if ending == "conll":
        separator = draw(st.sampled_from(["\t", " ", "  ", ""]))
        sentences = [
            [
                separator.join(
                    (str(cell) for cell in row[-1:]),
                )
                + separator
                + draw(st.sampled_from(TAGS))
                for row in table
            ]
        ] * 3
        return ending, "\n\n".join("\n".join(sentence) for sentence in sentences).encode("utf-8", "surrogatepass")
    records = [dict(zip(names, row, strict=True)) for row in table]
    dumped = [json.dumps(each, ensure_ascii=draw(st.booleans())) for each in records]
    text = "\n".join(dumped) if ending == "jsonl" else f"[{','.join(dumped)}]"
    return ending, text.encode("utf-8", "surrogatepass")


@st.composite
def nested_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return questions, conversations or preferences, some of whose fields have other values."""
    turn = {"role": "user", "content": "a question"}
    answer = {"role": "assistant", "content": "an answer"}
    passage = {
        "context": "The ferry was built in 1911.",
        "qas": [{"id": "1", "question": "When?", "answers": [{"text": "1911", "answer_start": 23}]}],
    }
    flat = {"question": "When?", "context": "Built in 1911.", "answers": {"text": ["1911"], "answer_start": [9]}}
    whole = draw(
        st.sampled_from(
            [
                {"data": [{"paragraphs": [passage]}]},
                flat,
                {"messages": [turn, answer]},
                {"prompt": "a", "chosen": [answer], "rejected": "b"},
            ]
        )
    )
    records = [json.loads(json.dumps(whole)) for _ in range(12)]
    for _ in range(draw(st.integers(0, 3))):
        node: Any = draw(st.sampled_from(records))
        while isinstance(node, (dict, list)) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[key], (dict, list)) or draw(st.booleans()):
                node[key] = copy.deepcopy(draw(st.sampled_from(CELLS)))  # it may be changed next
                break
            node = node[key]
    if "data" in whole:
        return "json", json.dumps(records[0]).encode()
    return "jsonl", "\n".join(map(json.dumps, records)).encode()


@st.composite
def data_files(draw: st.DrawFn, command: bool = False) -> Example:
    """Return the reading of a random file, or with `command` a whole job=plan on it."""
    ending, content = draw(st.one_of(table_files(), table_files(), nested_files()))
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-8-sig", "latin-1", "gz", "cut", "sep"]))
    if encoding == "gz":
        ending, content = f"{ending}.gz", gzip.compress(content)
    elif encoding == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif encoding == "sep":
        content = b"sep=,\n" + content
    elif encoding != "utf-8" and ending != "parquet":
        content = content.decode("utf-8", "replace").encode(encoding, "replace")
    kind = draw(st.sampled_from(["classification"] * 5 + list(KINDS)))
    words = (f"task={kind}", f"task.dataset={FILE}.{ending}", *columns_of(kind))
    if not command:
        return Example(words, {f"{FILE}.{ending}": content}, entry="fuzz.reading:read")
    model = {"seq2seq": "t5"}.get(kind, "gpt2" if kind in ("instructions", "preferences", "causal_lm") else "bert")
    tiny = (f"model={model}", f"model.checkpoint=models/{model}", "source=offline", "out=outputs", "job=plan")
    return Example((*tiny, *words), {f"{FILE}.{ending}": content})


def columns_of(kind: str) -> tuple[str, ...]:
    texts = {
        "classification": ("text",),
        "regression": ("text",),
        "seq2seq": ("text",),
        "causal_lm": ("text",),
        "retrieval": ("text", "label"),
    }
    chosen = (f"task.text=[{','.join(texts[kind])}]",) if kind in texts else ()
    return (*chosen, *(["task.label=label"] if kind in ("seq2seq", "token_classification") else []))
