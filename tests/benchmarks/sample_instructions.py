"""Print a sample of generated tasks as a Markdown table with an empty column for a reader's verdict.

    python tests/benchmarks/sample_instructions.py FOLDER [COUNT] [SEED]

FOLDER is that of job=generate. Of a task with several instances the first is shown; a text is cut after 400 characters.
"""

import json
import random
import sys
from pathlib import Path

LENGTH = 400


def cell(text: str) -> str:
    """Return a text as a cell: without line breaks, bars and HTML."""
    shown = text if len(text) <= LENGTH else text[:LENGTH] + " [...]"
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`"), ("\n", "<br>")):
        shown = shown.replace(character, escaped)
    return shown


def main(folder: str, count: str = "30", seed: str = "0") -> None:
    tasks = [json.loads(line) for line in Path(folder, "kept.jsonl").read_text(encoding="utf-8").split("\n") if line]
    shown = random.Random(int(seed)).sample(tasks, min(int(count), len(tasks)))
    print("| | instruction | input | output | verdict |", "|---|---|---|---|---|", sep="\n")
    for number, task in enumerate(shown, start=1):
        first = task["instances"][0]
        print(f"| {number} |", " | ".join(map(cell, (task["instruction"], first["input"], first["output"]))), "| |")


if __name__ == "__main__":
    main(*sys.argv[1:])
