"""The novelty index decides like a comparison of all pairs with rouge-score, with bitwise identical scores."""

from __future__ import annotations

import random

import pytest
from helpers.grammar import instructions
from rouge_score import rouge_scorer

from peftkit.generation.novelty import NoveltyIndex
from peftkit.metrics.words import rouge_l_scores, text_words

ODD = [
    "", "   ", "!!!", "é à ü", "Перевод слова", "这是 一个 句子", "a", "A a", "a a a a a a a", "the the the cat", "cat the the the",
    "one two three four five six seven", "seven six five four three two one", "one two three four five six seven eight nine ten",
    "one two three four five six seven x y z", "x y z one two three four five six seven", "naïve café naïve", "naive cafe naive",
    "İstanbul ist groß", "a-b_c d.e", "a b c d e", "1 2 3", "1, 2; 3?", "word " * 40, "word " * 21 + "other " * 19,
]  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=Words())


class Words:
    """The tokenizer of rouge-score splits other scripts at every letter beyond a to z."""

    def tokenize(self, text: str) -> list[str]:
        return text_words(text)


def texts(seed: int, size: int = 60) -> list[str]:
    """Return texts of the grammar, odd ones, texts of few words, and some with words swapped, dropped or doubled."""
    draw = random.Random(seed)
    found = [*instructions(size, seed), *ODD]
    found += [" ".join(draw.choices("abcd", k=draw.randrange(1, 14))) for _ in range(size)]
    for text in draw.sample(found, size):
        words = text.split() or ["w"]
        place = draw.randrange(len(words))
        changes = [
            words[:place] + words[place + 1 :],
            words[:place] + [words[place]] * 2 + words[place + 1 :],
            words[::-1],
        ]
        changes += [draw.sample(words, len(words)), [*words, "more", "words"], words[: len(words) * 7 // 10]]
        found.append(" ".join(draw.choice(changes)))
    draw.shuffle(found)
    return found


def rouge_l(first: str, second: str) -> float:
    (score,) = rouge_l_scores(text_words(second), [text_words(first)])
    return score


@pytest.mark.parametrize(
    ("threshold", "size"),
    [(0.7, 60), *(pytest.param(other, 250, marks=pytest.mark.slow) for other in (0.3, 0.5, 0.7, 1.0))],
)
def test_decisions_equal_those_of_all_pairs(reference: rouge_scorer.RougeScorer, threshold: float, size: int) -> None:
    index, kept = NoveltyIndex(threshold), []
    decided = []
    for text in texts(int(10 * threshold), size):
        scores = [reference.score(old, text)["rougeL"].fmeasure for old in kept]
        best = max(scores, default=0.0)
        expected = (scores.index(best), best) if best >= threshold else None
        found = index.nearest(text)
        assert found == expected, text
        decided.append(found is None)
        if found is None:
            index.add(text)
            kept.append(text)
    assert 20 < sum(decided) < len(decided) - 8


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_bitwise_identical(reference: rouge_scorer.RougeScorer, seed: int) -> None:
    draw = random.Random(seed)
    some = texts(seed)
    for _ in range(150):
        first, second = draw.choice(some), draw.choice(some)
        if text_words(first) or text_words(second):  # rouge-score gives two empty texts 0
            assert rouge_l(first, second) == reference.score(first, second)["rougeL"].fmeasure


def test_a_score_at_the_threshold_is_similar() -> None:
    index = NoveltyIndex(0.7)
    index.add("one two three four five six seven eight nine ten")
    match = index.nearest("one two three four five six seven x y z")
    assert match is not None and match[1] == rouge_l("a b c d e f g 1 2 3", "a b c d e f g x y z")


def test_few_pairs_are_compared() -> None:
    index = NoveltyIndex(0.7)
    some = instructions(1500)
    for text in some:
        if index.nearest(text) is None:
            index.add(text)
    assert index.compared < len(some)  # of a million pairs


@pytest.mark.parametrize(
    ("kept", "same", "new"),
    [
        ("É à  ü", "é à ü", "é o ù"),
        ("把这句话翻译成英文", "把这句话，翻译成英文。", "写一首关于春天的诗"),
        ("!?", "!?", "?!"),
    ],
)
def test_instructions_in_any_script_are_compared(kept: str, same: str, new: str) -> None:
    index = NoveltyIndex(0.7)
    index.add(kept, "first")
    assert index.describe_similar(same) == "1.0000 to first"
    assert index.describe_similar(new) is None
