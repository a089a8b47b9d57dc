"""List what the GLUE benchmark's site would reject in a zip: python tests/helpers/glue_site.py submission.zip

The published format (gluebenchmark.com/faq, question 1, and the site's sample submission) written down a second time:
nothing here is read from peftkit.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from zipfile import ZipFile

THREE_WAY = "entailment|neutral|contradiction"
PUBLISHED = {  # rows of the test set, and the pattern of a prediction
    "AX.tsv": (1104, THREE_WAY), "CoLA.tsv": (1063, "0|1"), "MNLI-m.tsv": (9796, THREE_WAY),
    "MNLI-mm.tsv": (9847, THREE_WAY), "MRPC.tsv": (1725, "0|1"), "QNLI.tsv": (5463, "entailment|not_entailment"),
    "QQP.tsv": (390965, "0|1"), "RTE.tsv": (3000, "entailment|not_entailment"), "SST-2.tsv": (1821, "0|1"),
    "STS-B.tsv": (1379, r"[0-4]\.\d+|5\.0+"), "WNLI.tsv": (146, "0|1"),
}  # fmt: skip


def faults(file: Path) -> list[str]:
    """Return a sentence for each fault; empty where the site would take the zip."""
    with ZipFile(file) as packed:
        texts = {name: packed.read(name).decode() for name in packed.namelist()}
    found = [f"{name} is missing" for name in PUBLISHED if name not in texts]
    for name, text in texts.items():
        if name not in PUBLISHED:
            found.append(f"{name} is none of the eleven")
        else:
            found += [f"{name} {fault}" for fault in _faults_of(text, *PUBLISHED[name])]
    return found


def _faults_of(text: str, size: int, pattern: str) -> list[str]:
    found = []
    head, *lines = text.removesuffix("\n").split("\n")
    cells = [line.split("\t") for line in lines]
    if head != "index\tprediction":
        found.append(f"begins with {head!r}")
    if len(lines) != size:
        found.append(f"has {len(lines)} rows, not {size}")
    if [cell[0] for cell in cells] != [str(number) for number in range(len(lines))]:
        found.append("is not numbered from 0 up")
    odd = [
        line for line, cell in zip(lines, cells, strict=True) if len(cell) != 2 or not re.fullmatch(pattern, cell[1])
    ]
    return [*found, f"has {odd[0]!r}"] if odd else found


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]))
    print("\n".join(wrong) or f"{sys.argv[1]}: eleven files as published")
    sys.exit(bool(wrong))
