"""A task from a folder of manual pages: the section of a passage.

python tests/benchmarks/sections.py manpages sections

Pages of the tenth that job=extend and task=language_modeling hold out are the validation split.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LETTERS = 400  # of a passage; three of a page, none from its first quarter, where the heading names the section
PLACES = (0.25, 0.5, 0.75)


def main() -> None:
    pages, target = Path(sys.argv[1]), Path(sys.argv[2])
    rows: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for number, page in enumerate(sorted(pages.rglob("*.txt")), start=1):
        text, section = page.read_text(), page.name.split(".")[-2][0]  # printf.3.txt
        if len(text) < 4 * LETTERS or not section.isdigit():
            continue
        for place in PLACES:
            passage = " ".join(text[round(place * len(text)) :][:LETTERS].split())
            rows["train" if number % 10 else "validation"].append({"text": passage, "section": section})
    target.mkdir(parents=True, exist_ok=True)
    for split, each in rows.items():
        (target / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))


if __name__ == "__main__":
    main()
