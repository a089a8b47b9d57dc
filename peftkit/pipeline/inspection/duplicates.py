"""Examples that occur twice, within a split or across splits, and equal texts with different labels."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from peftkit.pipeline.inspection.minhash import BANDS, MAX_CHARACTERS, MAX_PAIRS, NGRAM, ROWS, near_duplicates
from peftkit.pipeline.inspection.sections import Section, Share, plural, shortened

THRESHOLD = 0.8  # Jaccard similarity of near-duplicates
SHOWN = 8  # pairs, and groups of conflicting labels
WORD = re.compile(r"\w+")
METHOD = (
    "Duplicates are texts with the same words in the same order; case, punctuation, spaces and Unicode forms are "
    f"ignored. Near-duplicates are texts of which the sets of {NGRAM} consecutive characters have a Jaccard similarity "
    f"of {THRESHOLD} or more: MinHash ({BANDS * ROWS} hashes, {BANDS} bands) finds 99 % of the pairs at {THRESHOLD}, "
    f"more of the others, and computes their similarity. The first {MAX_CHARACTERS:,} characters are compared."
)


@dataclass(frozen=True)
class Example:
    """A text and its label, as in the file, in a split."""

    split: str
    text: str
    label: Hashable = None


def normalized(text: str) -> str:
    """Return the words of a text in lower case and Unicode's NFKC form; of a text without words the text."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(WORD.findall(folded)) or folded.strip()


def duplicate_sections(examples: Sequence[Example], train: str) -> list[Section]:
    """Return the sections of duplicates and, where there are any, of conflicting labels.

    Args:
        train: the split that is trained on, whose examples should not be in the others.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[normalized(example.text)].append(example)
    keys = list(groups)
    pairs, is_complete = near_duplicates(keys, THRESHOLD)
    near: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        near[keys[pair.first]].add(keys[pair.second])
        near[keys[pair.second]].add(keys[pair.first])
    rows, warnings = _counts(groups, near, train)
    shown = []
    for pair in pairs[:SHOWN]:
        first, second = (groups[keys[number]][0] for number in (pair.first, pair.second))
        shown.append((str(Share(pair.similarity)), _where(first), shortened(first.text)))
        shown.append(("", _where(second), shortened(second.text)))
    notes = [METHOD] if is_complete else [METHOD, f"Only the first {MAX_PAIRS:,} candidates were compared."]
    sections = [
        Section("Duplicates", warnings, [], ("split", "examples", "duplicates", "near-duplicates"), rows, notes)
    ]
    if shown:
        lines = [f"the {SHOWN} most similar of {len(pairs):,} pairs"] if len(pairs) > SHOWN else []
        sections.append(Section("Near-duplicates", [], lines, ("similarity", "example", "text"), shown))
    return [*sections, *_conflicts(groups)]


def _counts(
    groups: Mapping[str, list[Example]], near: Mapping[str, set[str]], train: str
) -> tuple[list[tuple[str, int, int, int]], list[str]]:
    """Return for each split its repeated examples, and for each other split those that are in train; and warnings.

    An example is a near-duplicate only where it is no duplicate.
    """
    in_train = {key for key, group in groups.items() if any(example.split == train for example in group)}
    sizes: Counter[str] = Counter(example.split for group in groups.values() for example in group)
    repeated: Counter[str] = Counter()
    similar: Counter[str] = Counter()
    leaked: Counter[str] = Counter()
    leaked_near: Counter[str] = Counter()
    for key, group in groups.items():
        by_split = Counter(example.split for example in group)
        for split, number in by_split.items():
            repeated[split] += number - 1
            similar[split] += number == 1 and any(any(e.split == split for e in groups[other]) for other in near[key])
            if split != train:
                leaked[split] += number if key in in_train else 0
                leaked_near[split] += number if key not in in_train and near[key] & in_train else 0
    rows, warnings = [], []
    for split, size in sizes.items():
        rows.append((split, size, repeated[split], similar[split]))
        if split != train:
            rows.append((f"{split}, also in {train}", size, leaked[split], leaked_near[split]))
            if total := leaked[split] + leaked_near[split]:
                warnings.append(
                    f"{total:,} of {plural(size, 'example')} of {split} ({Share(total / size)}) are in {train} too, "
                    f"{leaked_near[split]:,} of them nearly: scores on them show memory; remove them from {train}"
                )
    if repeated[train] > 0.01 * sizes[train]:
        warnings.append(f"{plural(repeated[train], 'example')} of {train} repeat an earlier one")
    return rows, warnings


def _conflicts(groups: Mapping[str, list[Example]]) -> list[Section]:
    """Return the section of equal texts with different labels, if there are any."""
    found = []
    for group in groups.values():
        labels = Counter(str(example.label) for example in group if example.label is not None)
        if len(labels) > 1:
            found.append((group, labels))
    if not found:
        return []
    found.sort(key=lambda each: -each[1].total())
    number = sum(labels.total() for _, labels in found)
    warning = f"the same text has different labels: {plural(len(found), 'text')}, {plural(number, 'example')}"
    rows = [
        (", ".join(f"{name} {count}" for name, count in labels.most_common()), shortened(group[0].text))
        for group, labels in found[:SHOWN]
    ]
    lines = [f"the {SHOWN} most frequent of {len(found):,} texts"] if len(found) > SHOWN else []
    return [Section("Conflicting labels", [warning], lines, ("labels", "text"), rows)]


def _where(example: Example) -> str:
    return example.split if example.label is None else f"{example.split}, {example.label}"
