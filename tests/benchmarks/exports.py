"""What job=export writes, for each method, model and format: the table of docs/how-to/export.md.

    PYTHONPATH=tests python tests/benchmarks/exports.py OUT --data-root DATA_ROOT     # trains and exports what OUT lacks
    PYTHONPATH=tests python tests/benchmarks/exports.py OUT --table                   # from OUT/exports.jsonl alone

Each run is trained on 320 examples, so that its weights differ from those of the base; its scores do not matter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers import commands

from peftkit.config import UserError
from peftkit.config.errors import ExportError
from peftkit.config.export_formats import EXPORT_FORMATS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"
BEGIN, END = "<!-- table: tests/benchmarks/exports.py -->\n", "<!-- end of table -->\n"
METHODS = ("lora", "ia3", "adapter", "full")
CLASSIFY = ["task=sst2"]
ANSWER = ["task=instructions", "task.text=[text]", "task.label=answer", "task.max_target_length=8"]
MODELS: dict[str, list[str]] = {  # rows of the table
    "BERT (MiniLM), mean pooling": ["model=minilm", *CLASSIFY],
    "GPT-2, classification": ["model=gpt2", *CLASSIFY],
    "T5, classification": ["model=t5", *CLASSIFY],
    "GPT-2, instructions": ["model=gpt2", *ANSWER],
    "T5, instructions": ["model=t5", *ANSWER],
    "BERT (MiniLM), [CLS]": ["model=minilm", "model.pooling=cls", *CLASSIFY],
}
SETTINGS = [
    "source=offline", "task.max_train_samples=320", "task.max_eval_samples=200", "train.num_train_epochs=1",
    "train.disable_tqdm=true",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-root", required=False)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    file = given.out / "exports.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    file.touch()
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if not given.table:
        known = {(each["model"], each["method"], each["format"]) for each in entries}
        with file.open("a", encoding="utf-8") as lines:
            for entry in measure(given.out, given.data_root, known):
                entries.append(entry)
                lines.write(json.dumps(entry) + "\n")
                lines.flush()
                print(entry, flush=True)
    write_table(entries)


def measure(out: Path, data_root: str | None, known: set[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    """Yield what became of each export that is not known: its record, or why it was refused or failed."""
    answers = out / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in answered_examples()), encoding="utf-8")
    for name, overrides in MODELS.items():
        data = [f"data_root={data_root}"] if data_root and CLASSIFY[0] in overrides else []
        own = [f"task.dataset={answers}"] if CLASSIFY[0] not in overrides else []
        for method in METHODS:
            missing = [each for each in EXPORT_FORMATS if (name, method, each) not in known]
            if not missing:
                continue
            (run,) = commands.finetune(*overrides, *data, *own, *SETTINGS, f"method={method}", f"out={out}")
            for chosen in missing:
                more = ["export.gguf_type=f32"] if chosen == "gguf" else []
                command = ["job=export", f"run={run}", f"format={chosen}", "source=offline", *data, *more]
                yield {"model": name, "method": method, "format": chosen, **outcome(command)}


def outcome(command: Sequence[str]) -> dict[str, Any]:
    """Return what an export is: written, refused or failed."""
    if messages := commands.check(command):
        return {"status": "refused", "reason": str(messages[0])}
    try:
        folder = commands.run(command)
    except (UserError, ExportError) as error:
        return {"status": "refused" if isinstance(error, UserError) else "failed", "reason": str(error)}
    return json.loads((Path(folder) / "export.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def answered_examples() -> Iterator[dict[str, str]]:
    """Yield instructions of one kind, to which a model can learn the answer."""
    from peftkit.data.miniglue import sentences

    for text in sentences(600):
        yield {"text": f"Name the last word: {text}", "answer": text.split()[-1].strip(".")}


def write_table(entries: list[dict[str, Any]]) -> None:
    """Write the table into the page, with the reasons of refusals below it."""
    reasons: list[str] = []
    formats = list(EXPORT_FORMATS)
    lines = [f"| model | method | {' | '.join(formats)} |", "|---" * (2 + len(formats)) + "|"]
    for name in MODELS:
        for method in METHODS:
            of = {each["format"]: each for each in entries if (each["model"], each["method"]) == (name, method)}
            if of:
                lines.append(
                    f"| {name} | `{method}` | {' | '.join(_cell(of.get(each), reasons) for each in formats)} |"
                )
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text("".join([before, BEGIN, "\n".join([*lines, "", *notes]), "\n", END, rest.partition(END)[2]]))


def _cell(entry: dict[str, Any] | None, reasons: list[str]) -> str:
    if entry is None:
        return "not run"
    if entry["status"] == "finished":
        return f"{entry['max_difference']:.1e}" + (", same texts" if entry["same_text"] == 1 else "")
    reason = entry["reason"].partition("; ")
    known = f"{reason[0].partition(': ')[2] if reason[0].startswith('run=') else reason[0]}; {reason[2]}"
    if known not in reasons:
        reasons.append(known)
    return f"{entry['status']} ({reasons.index(known) + 1})"


if __name__ == "__main__":
    main()
