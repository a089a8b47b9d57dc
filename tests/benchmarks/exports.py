"""Answers of a run in other programs, for each model, method and program: the table of docs/how-to/export.md.

    PYTHONPATH=tests python tests/benchmarks/exports.py OUT --data-root GLUE     # trains, exports and reads what OUT lacks
    PYTHONPATH=tests python tests/benchmarks/exports.py OUT --table              # from OUT/exports.jsonl alone

Each run is trained on 320 examples; its scores do not matter. Its answers to 200 examples are those of `job=predict` in
fp32, the probabilities of the first token of a generated text those of the model of `peftkit.load`. export_readers.py
reads the exports in another process, without peftkit; a served run is asked over HTTP.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from export_readers import LABELS, NEW_TOKENS, READERS, answers_of, save
from helpers import commands
from serve import machine, start

import peftkit
from peftkit.config import UserError
from peftkit.config.errors import ExportError
from peftkit.results.run_result import RunResult

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"
BEGIN, END = "<!-- table: tests/benchmarks/exports.py -->\n", "<!-- end of table -->\n"
METHODS = ("lora", "ia3", "adapter", "full")
COLUMNS = (*READERS, "served")
TOLERANCE, EXAMPLES, REQUEST = 1e-4, 200, 50
INSTRUCTIONS = ["task=instructions", "task.text=[text]", "task.label=answer", f"task.max_target_length={NEW_TOKENS}"]
NO_PIPELINE = "transformers 5 has no pipeline for text-to-text models; load the export by AutoModelForSeq2SeqLM"


@dataclass(frozen=True)
class Row:
    """A model of the table."""

    name: str
    overrides: tuple[str, ...]
    answers: str  # classes, label texts, conversations or texts

    @property
    def is_classifier(self) -> bool:
        return self.answers in ("classes", "label texts")


ROWS = (
    Row("BERT (MiniLM), mean pooling", ("model=minilm",), "classes"),
    Row("BERT (MiniLM), [CLS]", ("model=minilm", "model.pooling=cls"), "classes"),
    Row("GPT-2, classification", ("model=gpt2",), "classes"),
    Row("T5, classification", ("model=t5",), "label texts"),
    Row("GPT-2, instructions", ("model=gpt2",), "conversations"),
    Row("T5, instructions", ("model=t5",), "texts"),
)
SETTINGS = [
    "source=offline", "task.max_train_samples=320", f"task.max_eval_samples={EXAMPLES}", "train.num_train_epochs=1",
    "train.disable_tqdm=true",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-root", required=False)
    parser.add_argument("--rows", nargs="+", type=int, default=range(len(ROWS)), help="numbers, from 0; by default all")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    out, file = given.out.absolute(), given.out.absolute() / "exports.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    for row, method in () if given.table else [(ROWS[number], each) for number in given.rows for each in METHODS]:
        known = {each["column"] for each in lines_of(file) if (each["model"], each["method"]) == (row.name, method)}
        if missing := [each for each in COLUMNS if each not in known]:
            of = {"model": row.name, "method": method, "date": date.today().isoformat()}
            found = [of | each for each in Measured(row, method, out, given.data_root).entries(missing)]
            print(*found, sep="\n", flush=True)
            with file.open("a", encoding="utf-8") as opened:
                opened.write("".join(json.dumps(each) + "\n" for each in found))
    entries = lines_of(file)
    write_table(entries)
    if wrong := [each for each in entries if each["status"] == "failed"]:
        sys.exit("\n".join(map(str, wrong)))


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


@dataclass(frozen=True)
class Measured:
    """One row of the table by one method: a run, and its answers in each program."""

    row: Row
    method: str
    out: Path
    data_root: str | None

    @cached_property
    def data(self) -> list[str]:
        """The overrides that name the data."""
        if self.row.is_classifier:
            return [f"data_root={self.data_root}"] if self.data_root else []
        file = self.out / "answers.jsonl"
        if not file.exists():
            file.write_text("".join(json.dumps(each) + "\n" for each in instructions(600)), encoding="utf-8")
        return [f"task.dataset={file}"]

    @cached_property
    def run(self) -> Path:
        task = ["task=sst2"] if self.row.is_classifier else INSTRUCTIONS
        more = [*task, *self.data, *SETTINGS, f"method={self.method}", f"out={self.out}"]
        (folder,) = commands.finetune(*self.row.overrides, *more)
        return folder

    @cached_property
    def examples(self) -> list[dict[str, str]]:
        if self.row.is_classifier:
            return RunResult(self.run).predictions()[["sentence"]].head(EXAMPLES).to_dict("records")  # type: ignore[no-any-return]
        return [{"text": each["text"]} for each in instructions(600 + EXAMPLES)][-EXAMPLES:]

    @cached_property
    def texts(self) -> list[str]:
        return [text for example in self.examples for text in example.values()]

    def file(self, column: str) -> Path:
        return self.run / f"answers-{column}.npz"

    def entries(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield what became of each program: the largest difference from the run, or why it was refused or failed."""
        save(self.reference(), self.file("run"))
        requests: list[dict[str, Any]] = []
        for column in columns:
            try:
                requests.append(self.request(column))
            except (UserError, ExportError) as error:
                status = "refused" if isinstance(error, UserError) else "failed"
                yield {"column": column, "status": status, "reason": str(error)}
        errors = {"served": None} | read([each for each in requests if each["column"] in READERS])
        if "served" in columns:
            save(self.served(), self.file("served"))
        for column in [each["column"] for each in requests]:
            if errors[column] is not None:
                yield {"column": column, "status": "failed", "reason": errors[column]}
            else:
                yield {"column": column} | compared(np.load(self.file("run")), np.load(self.file(column)))

    def reference(self) -> dict[str, Any]:
        """Return the answers of the run."""
        with tempfile.TemporaryDirectory() as scratch:
            given, found = Path(scratch, "in.jsonl"), Path(scratch, "out.jsonl")
            given.write_text("".join(json.dumps(each) + "\n" for each in self.examples), encoding="utf-8")
            commands.predict(self.run, given, f"output={found}", "train.bf16=false")
            lines = lines_of(found)
        if self.row.is_classifier:
            return {"probabilities": [[line[f"probability_{label}"] for label in LABELS] for line in lines]}
        first = answers_of(*peftkit.load(self.run), {"answers": self.row.answers, "texts": self.texts})
        return first | {"texts": [line["prediction"] for line in lines]}

    def request(self, column: str) -> dict[str, Any]:
        """Return a request of export_readers.py for a column, of an export that is written where it is missing.

        Raises:
            UserError: the program has no such model.
            ExportError: the export gives other answers.
        """
        request = {"column": column, "answers": self.row.answers, "texts": self.texts, "target": str(self.file(column))}
        if column == "served":
            run_job(["job=serve", f"run={self.run}"], only_check=True)
            return request
        if column == "merged":
            run_job(["job=merge", f"run={self.run}"])
            return {**request, "folder": str(self.run / "merged")}
        chosen = "transformers" if column == "pipeline" else column
        folder = self.run / f"export-{chosen}"
        command = ["job=export", f"run={self.run}", f"format={chosen}", "source=offline", "export.samples=32"]
        command += self.data if self.row.is_classifier else []
        command += ["export.gguf_type=f32"] if column == "gguf" else []
        run_job(command, only_check=(folder / "export.json").exists())
        if column == "pipeline" and self.row.answers in ("label texts", "texts"):
            raise UserError(NO_PIPELINE)
        details = json.loads((folder / "export.json").read_text(encoding="utf-8"))["details"]
        return {**request, "folder": str(folder), "arguments": details.get("arguments", {})}

    def served(self) -> dict[str, Any]:
        """Return the answers of job=serve over HTTP."""
        server, port = start([self.run])
        answers: list[dict[str, Any]] = []
        try:
            for first in range(0, EXAMPLES, REQUEST):
                body = json.dumps({"examples": self.examples[first : first + REQUEST]}).encode()
                header, address = {"Content-Type": "application/json"}, f"http://127.0.0.1:{port}/predict"
                with urllib.request.urlopen(urllib.request.Request(address, body, header)) as response:
                    answers += json.load(response)["predictions"]
        finally:
            server.terminate()
            server.wait(60)
        if self.row.is_classifier:
            return {"probabilities": [[each["probabilities"][label] for label in LABELS] for each in answers]}
        return {"texts": [each["prediction"] for each in answers]}


def instructions(number: int) -> Iterator[dict[str, str]]:
    """Yield instructions of one kind, to which a model can learn the answer."""
    from peftkit.data.miniglue import sentences

    for text in sentences(number):
        yield {"text": f"Name the last word: {text}", "answer": text.split()[-1].strip(".")}


def run_job(command: Sequence[str], only_check: bool = False) -> None:
    """Run a job, or only check that it can start.

    Raises:
        UserError: it is refused.
        ExportError: an export gives other answers.
    """
    if messages := commands.check(command):
        raise UserError(str(messages[0]))
    if not only_check:
        commands.run(command)


def read(requests: Sequence[dict[str, Any]]) -> dict[str, str | None]:
    """Return the error of each column, or None; its file has the answers."""
    program = readers()
    assert program.stdin is not None and program.stdout is not None
    program.stdin.write("".join(json.dumps(each) + "\n" for each in requests))
    program.stdin.flush()
    lines = (json.loads(line[6:]) for line in program.stdout if line.startswith("read: "))
    return {each["column"]: each["error"] for _, each in zip(requests, lines, strict=False)}


@cache
def readers() -> subprocess.Popen[str]:
    """Start the program that reads exports."""
    command = [sys.executable, str(Path(__file__).with_name("export_readers.py"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def compared(run: Any, other: Any) -> dict[str, Any]:
    """Return by how much answers differ, over those that both have, and by how much the run's vary (`spread`)."""
    difference, same, spread = None, None, float(run["probabilities"].std(axis=0).max())
    if "probabilities" in other:
        first, second = (each["probabilities"].astype(np.float64) for each in (run, other))
        difference = float(np.abs(first - second).max()) if first.shape == second.shape else float("inf")
    if "texts" in other:
        same = int(np.sum(run["texts"] == other["texts"]))
    is_same = (difference is None or difference <= TOLERANCE) and same in (None, EXAMPLES)
    reason = None if is_same else f"the answers differ: {difference}, {same} of {EXAMPLES} texts are the same"
    found = {"status": "finished" if is_same else "failed", "reason": reason}
    return {**found, "max_difference": difference, "same_texts": same, "spread": spread}


def write_table(entries: Sequence[dict[str, Any]]) -> None:
    """Write the table into the page, with the reasons of refusals below it."""
    reasons: list[str] = []
    lines = [f"| model | method | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for row in ROWS:
        for method in METHODS:
            of = {each["column"]: each for each in entries if (each["model"], each["method"]) == (row.name, method)}
            cells = [_cell(of.get(column), reasons) for column in COLUMNS]
            lines.append(f"| {row.name} | `{method}` | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    days, spreads = sorted({each["date"] for each in entries}), [each["spread"] for each in entries if "spread" in each]
    head = (
        f"{machine()}, one thread, {' and '.join(days)}; over the examples, the probabilities of the runs have standard "
        f"deviations of {min(spreads):.2g} to {max(spreads):.2g}."
    )
    table = "\n".join([head, "", *lines, "", *notes])
    PAGE.write_text("".join([before, BEGIN, table, "\n", END, rest.partition(END)[2]]), encoding="utf-8")


def _cell(entry: dict[str, Any] | None, reasons: list[str]) -> str:
    if entry is None:
        return "not run"
    if entry["status"] == "finished":
        found, same = entry["max_difference"], entry["same_texts"]
        return ", ".join([*([] if found is None else [f"{found:.1e}"]), *([] if same is None else ["same texts"])])
    reason = entry["reason"].partition("; ")
    known = f"{reason[0].partition(': ')[2] if reason[0].startswith('run=') else reason[0]}; {reason[2]}"
    if known not in reasons:
        reasons.append(known)
    return f"{entry['status']} ({reasons.index(known) + 1})"


if __name__ == "__main__":
    main()
