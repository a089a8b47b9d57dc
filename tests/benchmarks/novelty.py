"""Time the novelty check of instructions against the reference's way: every pair with rouge-score.

python tests/benchmarks/novelty.py [COUNT] [FILE] [SAMPLE]     # 50,000 made by a grammar; FILE: parquet or txt, - for none

Every text is compared with all that were kept before it, and kept where no ROUGE-L F-measure is 0.7 or more. The
reference would take days: it is timed on SAMPLE of the texts (40), drawn at random, each against all that were kept
before it, and must decide as the index did.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rouge_score import rouge_scorer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.grammar import instructions

from peftkit.generation.novelty import NoveltyIndex
from peftkit.metrics.words import text_words

THRESHOLD = 0.7


def main(count: int = 50_000, file: str | None = None, sample: int = 40) -> None:
    texts = read(Path(file))[:count] if file else instructions(count)
    index = NoveltyIndex(THRESHOLD)
    kept: list[str] = []
    before: list[int] = []  # kept texts when this one came
    novel: list[bool] = []
    start = time.process_time()
    for text in texts:
        before.append(len(kept))
        novel.append(index.nearest(text) is None)
        if novel[-1]:
            index.add(text)
            kept.append(text)
    ours = time.process_time() - start
    words = sum(len(text_words(text)) for text in texts) / len(texts)
    print(f"{len(texts):,} texts of {words:.1f} words, {len(kept):,} kept, {sum(before):,} pairs")
    print(f"index: {ours:.1f} CPU seconds, {index.compared:,} pairs whose subsequence was computed")
    drawn = sorted(random.Random(0).sample(range(len(texts)), min(sample, len(texts))))
    seconds, wrong = reference(texts, kept, before, novel, drawn)
    pairs = sum(before[place] for place in drawn)
    whole = seconds / pairs * sum(before)
    print(f"rouge-score: {seconds:.1f} CPU seconds for {len(drawn)} texts, {pairs:,} pairs; {wrong} decided otherwise")
    print(f"rouge-score for all pairs, extrapolated: {whole:,.0f} CPU seconds: {whole / ours:,.0f} times the index's")


def reference(
    texts: Sequence[str], kept: Sequence[str], before: Sequence[int], novel: Sequence[bool], drawn: Sequence[int]
) -> tuple[float, int]:
    """Return the seconds that rouge-score takes for the drawn texts, and how many it decides otherwise."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    wrong = 0
    start = time.process_time()
    for place in drawn:
        scores = [scorer.score(other, texts[place])["rougeL"].fmeasure for other in kept[: before[place]]]
        wrong += (max(scores, default=0.0) < THRESHOLD) != novel[place]
    return time.process_time() - start, wrong


def read(file: Path) -> list[str]:
    """Return the lines of a txt file, or the first column of texts of a parquet file."""
    if file.suffix == ".txt":
        return file.read_text(encoding="utf-8").splitlines()
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    name = next(field.name for field in table.schema if pa.types.is_string(field.type))
    return [str(text) for text in table[name].to_pylist()]


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        int(arguments[0]) if arguments else 50_000,
        arguments[1] if len(arguments) > 1 and arguments[1] != "-" else None,
        int(arguments[2]) if len(arguments) > 2 else 40,
    )
