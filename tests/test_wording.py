"""The package, its configuration and its documentation use the terms of the field."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("peftkit", "conf", "recipes", "README.md", "CONTRIBUTING.md", "docs")
PRIVATE = {
    "log, warn, message, prompt": r"\b(say|says|said|saying|tell|tells|told|teller|telling|ask|asks|asked|asking)\b",
    "compose, sweep status, validation": r"\b(drawer|refusals)\b",
    "submission files, pairwise judging, generated data, generators": r"\b(sheets|contest|grown|writers?)\b",
    "training bundle, generation client": r"\b(Parts|Asking|Words|Sheet)\b",
    "is newly initialized": r"\bbegins? at random|begun at random\b",
    "has labels": r"\b(tells?|told) .{0,40}\bapart\b",
    "contain NaN or inf": r"\b(is|are) no (finite )?numbers?\b",
    "adds a regularizer": r"\bkeeps its directions apart\b",
    "compares with, replaces, configures, returns": r"\b(holds? against|stands? in for|stand-ins?|settles?|hands? over|hands? on)\b",
    "offline": r"\bembedded\b",
    "the renamed keys": r"\b(search\.factors|search\.rows|task\.widths|embed\.width|extend\.rows|extend\.pad_to\b(?!_)|task\.noise\b(?!_)"
    r"|model\.layers|task\.words|distill\.weight|generate\.(target|served_model|similarity|words)|max_(train|eval)_rows)\b",
    "provides": r'^"""(Turn|Say|Tell|Hold|Settle) ',
    "artifact, continue, per": r"\b(artefacts?|goes on from|go on from|mends?|mended)\b",
}
ALLOWED = [  # path, text, reason
    (r"^peftkit/data/(miniglue|minitasks)/", r"", "generated English sentences"),
    (r"^peftkit/generation/(judging|seeds/.*)", r"", "prompts that are sent to models"),
    (r"^peftkit/data/formats/prompted\.py", r"", "prompts that are sent to models"),
    (r"^peftkit/leaderboard/page/vendor/", r"", "code of others"),
    (r"^docs/(leaderboard/index\.html|results/)", r"", "output of job=leaderboard"),
    (r"^docs/notebooks/", r"\bwriter\b", "the csv module's writer"),
    (r"^peftkit/generation/generators/offline\.py|^docs/how-to/generate\.md", r"mini-writer", "name of a generator"),
    (r"^peftkit/generation/(evol|self)_instruct\.py", r"^\s+(how=)?f?\"", "prompts that are sent to models"),
    (r"^peftkit/generation/dataset_card\.py", r"\b(say score|tell test)\b", "a list of English verbs"),
    (
        r"^peftkit/leaderboard/settings\.py",
        r"embedded",
        "names in results of version 0.1, which boards read",
    ),
    (r"^(peftkit/config/|README|docs/.*|CHANGELOG)", r"renamed|RENAMED", "old names of keys, refused with the new one"),
]


def uses() -> list[tuple[str, str, str]]:
    """Return file:line, the text and the better term of each private word that is not allowed."""
    names = subprocess.run(
        ["git", "ls-files", *PLACES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    found = []
    for name in names:
        file = ROOT / name
        if not name.endswith((".py", ".yaml", ".md", ".ipynb", ".js", ".html")) or not file.is_file():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            for better, pattern in PRIVATE.items():
                if re.search(pattern, line) and not is_allowed(name, line):
                    found.append((f"{name}:{number}", line.strip(), better))
    return found


def is_allowed(name: str, line: str) -> bool:
    return any(re.search(path, name) and re.search(text, line) for path, text, _ in ALLOWED)


def test_no_private_words() -> None:
    found = uses()
    assert not found, "\n".join(f"{place}: {text}  -> {better}" for place, text, better in found[:40])


@pytest.mark.parametrize("line", ["log(f'   {name} tells a and b apart')", "it stands in for BERT", "rows: told"])
def test_a_planted_word_is_found(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in PRIVATE.values())
