"""Pairs of a purpose and a description from manual pages as text, which docs/how-to/vocabulary.md creates.

python tests/benchmarks/manpage_pairs.py manpages pairs
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def main(folder: Path, target: Path) -> None:
    """Write a line a page: its NAME without the names as the query, its DESCRIPTION without them as the document.

    Every second page is held out, so that a query has some five hundred documents to choose from.
    """
    pairs = {}
    for page in sorted(folder.glob("*.txt")):
        if (pair := pair_of(page.read_text(errors="replace"))) is not None:
            pairs.setdefault(pair, page.stem)
    rows = [{"id": name, "query": query, "document": document} for (query, document), name in pairs.items()]
    target.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", rows[::2]), ("validation", rows[1::2])):
        (target / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    print(f"{len(rows)} pairs, {len({row['query'] for row in rows})} queries -> {target}")


def pair_of(page: str) -> tuple[str, str] | None:
    """Return what a page is for and what it says; None where it has no such sections, or says less than 20 words."""
    sections: dict[str, list[str]] = {}
    for line in page.splitlines():
        if re.fullmatch(r"[A-Z][A-Z ]+", line):
            lines = sections.setdefault(line, [])
        elif sections and line.startswith(" "):
            lines.append(line.strip())
    names, _, purpose = " ".join(sections.get("NAME", [])).partition(" - ")
    words = [re.escape(name.strip()) for name in names.split(",") if name.strip()]
    said = " ".join(sections.get("DESCRIPTION", [])).replace("\u2010 ", "")  # a word that was cut at a line's end
    if not purpose or not words:
        return None
    said = re.sub(rf"(?<!\w)({'|'.join(words)})(?!\w)(\(\w*\))?", "", said)
    said = re.sub(r"\s+", " ", said).strip()
    return (purpose.strip(), said) if len(said.split()) >= 20 else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
