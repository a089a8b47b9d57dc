"""Full blocks, span corruption as in T5, and the unigram baseline."""

import functools
import math
import operator

import numpy as np
import pytest

from peftkit.data.offline_corpus import (
    causal_pairs,
    documents_fingerprint,
    offline_documents,
    pack,
    python_manual,
    span_corrupt,
    span_pairs,
    unigram_loss,
)

SENTINELS = list(range(199, 99, -1))  # in order, as T5 numbers them: downwards
EOS = 1


@pytest.fixture(scope="module")
def corpus():
    return offline_documents(seed=0)


def test_pack_fills_every_block_and_loses_no_token():
    documents = [[5, 6, 7], [], [8, 9], [10] * 9]
    blocks = pack(documents, block=4, eos=EOS)
    assert {len(block) for block in blocks} == {4}
    stream = [token for block in blocks for token in block]
    expected = [5, 6, 7, EOS, EOS, 8, 9, EOS] + [10] * 9 + [EOS]
    assert stream[: len(expected)] == expected
    assert set(stream[len(expected) :]) <= {EOS}
    assert len(stream) - len(expected) < 4


def test_causal_pairs_are_their_own_targets():
    pairs = causal_pairs([[5, 6], [7, 8]], block=3, eos=EOS)
    assert pairs == [([5, 6, EOS], [5, 6, EOS]), ([7, 8, EOS], [7, 8, EOS])]


def test_span_corruption_can_be_undone_and_its_sentinels_are_in_order():
    rng = np.random.default_rng(0)
    for length in (2, 3, 7, 64, 128):
        ids = list(range(200, 200 + length))
        inputs, targets = span_corrupt(ids, SENTINELS, rng, eos=EOS)
        assert inputs[-1] == targets[-1] == EOS
        used = [token for token in inputs if token in SENTINELS]
        assert used == [token for token in targets if token in SENTINELS] == SENTINELS[: len(used)]
        assert restored(inputs, targets) == ids


def restored(inputs, targets):
    spans, sentinel = {}, None
    for token in targets[:-1]:
        if token in SENTINELS:
            sentinel = token
            spans[sentinel] = []
        else:
            spans[sentinel].append(token)
    return [token for kept in inputs[:-1] for token in spans.get(kept, [kept])]


@pytest.mark.parametrize(("density", "mean_noise_span_length"), [(0.15, 3.0), (0.5, 4.0), (0.15, 1.0)])
def test_span_corruption_keeps_its_density_and_span_length(density, mean_noise_span_length):
    rng = np.random.default_rng(0)
    taken = spans = 0
    for _ in range(200):
        _, targets = span_corrupt(range(200, 328), SENTINELS, rng, density, mean_noise_span_length, eos=EOS)
        spans += sum(token in SENTINELS for token in targets)
        taken += sum(token >= 200 for token in targets)
    assert taken / (200 * 128) == pytest.approx(density, rel=0.05)
    assert taken / spans == pytest.approx(mean_noise_span_length, rel=0.1)


def test_inner_positions_are_removed_uniformly():
    rng = np.random.default_rng(0)
    counts = np.zeros(64)
    for _ in range(2000):
        _, targets = span_corrupt(range(200, 264), SENTINELS, rng, eos=EOS)
        counts[[token - 200 for token in targets if token >= 200]] += 1
    middle = counts[8:48] / 2000
    assert middle.min() > 0.08
    assert middle.max() < 0.2


def test_span_pairs_have_one_length_and_follow_the_seed():
    documents = [list(range(200, 260)), list(range(300, 390))]
    first = span_pairs(documents, 32, EOS, SENTINELS, seed=0)
    assert len({(len(inputs), len(targets)) for inputs, targets in first}) == 1
    assert first == span_pairs(documents, 32, EOS, SENTINELS, seed=0)
    assert first != span_pairs(documents, 32, EOS, SENTINELS, seed=1)


def test_too_few_sentinels_are_refused():
    with pytest.raises(ValueError, match="smaller block"):
        span_corrupt(range(200, 328), SENTINELS[:2], np.random.default_rng(0), eos=EOS)


def test_unigram_loss_is_the_smoothed_cross_entropy():
    # counts plus one: 0 -> 4, 1 -> 2, 2 -> 1, of 7
    expected = -(math.log(4 / 7) + math.log(1 / 7)) / 2
    assert unigram_loss([0, 0, 0, 1], [0, 2], vocab_size=3) == pytest.approx(expected)


def test_the_manual_is_prose_without_duplicates():
    paragraphs = functools.reduce(operator.iadd, python_manual(), [])
    assert len(paragraphs) > 500
    assert len(set(paragraphs)) == len(paragraphs)
    assert not any("**" in paragraph or "::" in paragraph or ">>>" in paragraph for paragraph in paragraphs)


def test_no_document_is_both_trained_on_and_held_out(corpus):
    train, held_out = corpus
    assert train and held_out
    assert not set(train) & set(held_out)
    for part in corpus:  # both hold the manual's prose and generated documents
        assert set(part) & set(functools.reduce(operator.iadd, python_manual(), []))
        assert set(part) - set(functools.reduce(operator.iadd, python_manual(), []))


def test_the_fingerprint_depends_on_text_and_order():
    assert documents_fingerprint(["ab", "c"]) == documents_fingerprint(["ab", "c"])
    assert len({documents_fingerprint(documents) for documents in (["ab", "c"], ["c", "ab"], ["a", "bc"])}) == 3
