"""Shifts between domains of miniglue: in texts (covariate), in shares of labels, and in labels of equal texts."""

import random
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

DOMAINS = ("reviews", "letters", "reports", "forum")
OPENINGS = {  # the domain cue: phrases that occur in one domain only
    "reviews": ("five stars from me :", "bought it last week ,", "as a long-time customer ,"),
    "letters": ("dear friend , you should know :", "my dear ,", "with kind regards i write that"),
    "reports": ("the committee notes that", "according to section two ,", "it is hereby stated that"),
    "forum": ("lol guys ,", "imho", "anyone else ? because"),
}
WEIGHTS = ((8, 4, 2, 1), (1, 2, 4, 8))  # of the domains for the first label and the last, with a shift of labels
REVERSED = "forum"  # the domain whose labels mean something else, with a shift of concepts
LARGEST = 5.0  # of a similarity


def with_domains(
    splits: Mapping[str, Sequence[Mapping[str, Any]]], shifts: Collection[str], task: str, labels: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the examples of all splits with a column `domain`, shifted as named; order and ids stay.

    Args:
        shifts: some of covariate, label and concept.
        labels: number of classes; 1 for numbers from 0 to LARGEST.
    """
    shifted = {}
    for split, examples in splits.items():
        seeded = random.Random(zlib.crc32(f"{task}-{split}-domains".encode()))
        shifted[split] = [_shifted(dict(each), shifts, labels, seeded) for each in examples]
    return shifted


def _shifted(example: dict[str, Any], shifts: Collection[str], labels: int, seeded: random.Random) -> dict[str, Any]:
    label = example["label"]
    place = max(label, 0) / (LARGEST if labels == 1 else labels - 1)  # of a hidden label, -1, that of the first
    weights = [low * (1 - place) + high * place for low, high in zip(*WEIGHTS, strict=True)]
    domain = seeded.choices(DOMAINS, weights if "label" in shifts else None)[0]
    opening = seeded.choice(OPENINGS[domain])
    if "covariate" in shifts:
        text = next(name for name, value in example.items() if isinstance(value, str))
        example[text] = f"{opening} {example[text]}"
    if "concept" in shifts and domain == REVERSED and label >= 0:
        example["label"] = LARGEST - label if labels == 1 else (label + 1) % labels
    return {**example, "domain": domain}
