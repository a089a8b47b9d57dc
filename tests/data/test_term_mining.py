"""Streaming of corpora of any size, and ranking of the words that save the most tokens."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftkit.config import UserError
from peftkit.data.streaming import corpus_files, stream_documents
from peftkit.data.term_mining import WordCounts, count_words, rank_candidates, read_terms


def letters(words: Sequence[str]) -> list[int]:
    return [len(word) for word in words]


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
def test_documents_are_read_in_order_and_every_tenth_is_held_out(tmp_path: Path, ending: str) -> None:
    texts = [f"text {number} ünd\u2028more" for number in range(25)]
    file = tmp_path / f"corpus.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": [*texts, None]}), file)
    else:
        lines = texts if ending == "txt" else [json.dumps({"text": text}) for text in texts]
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    found = list(stream_documents(str(file)))
    assert [text for text, _ in found] == texts
    assert [number for number, (_, is_held_out) in enumerate(found) if is_held_out] == [9, 19]


def test_whole_files_are_held_out_of_ten_or_more(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text(f"one {number}\n\ntwo {number}\n")
    (tmp_path / "notes.md").write_text("not read")
    held_out = {text.split()[1] for text, is_held_out in stream_documents(str(tmp_path)) if is_held_out}
    assert held_out == {"9"}
    assert len(list(stream_documents(str(tmp_path)))) == 24
    assert len(corpus_files(str(tmp_path)) or []) == 12


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"caf\xe9\n", "not in UTF-8; convert it, with its encoding"),
        ("a.jsonl", b"{}\n", "line 1 has no column text .*set extend.column="),
        ("a.jsonl", b'{"text": 1\n', "line 1 is not JSON"),
        ("a.parquet", b"no parquet", "correct the file"),
    ],
)
def test_an_error_of_a_file_states_what_to_do(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        list(stream_documents(str(tmp_path / name)))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \.txt, \.jsonl, \.parquet files"):
        list(stream_documents(str(tmp_path)))


def test_words_keep_the_punctuation_inside_terms() -> None:
    text = "Run apt-get, see systemd.unit and TCP/IP (LD_PRELOAD); 1999 is no word, nor is it."
    assert set(count_words([text]).words) == {
        "Run", "apt-get", "see", "systemd.unit", "and", "TCP/IP", "LD_PRELOAD", "word", "nor",
    }  # fmt: skip


def test_candidates_are_ranked_by_the_tokens_that_they_save() -> None:
    counts = WordCounts({"aaaaa": 3, "bb": 9, "ccc": 6, "d": 99, "eeee": 4, "rare-but-long": 1}, 122, 0)
    found = rank_candidates(counts, letters, budget=3, min_count=2)
    assert [(word.term, word.count * (word.pieces - 1)) for word in found] == [("aaaaa", 12), ("ccc", 12), ("eeee", 12)]
    assert [word.term for word in rank_candidates(counts, letters, budget=9, min_count=2)][3:] == ["bb"]


def test_the_error_of_counts_in_bounded_memory_is_bounded() -> None:
    rng = random.Random(0)
    words = [f"word{int(rng.paretovariate(0.3))}" for _ in range(60_000)]
    true = Counter(words)
    found = count_words((word for word in words), kept=500)
    assert len(true) > 5_000 and len(found.words) <= 1_001  # so that much had to be forgotten
    assert found.total == 60_000 and 0 < found.max_undercount < 60_000
    assert all(0 <= true[word] - found.words.get(word, 0) <= found.max_undercount for word in true)
    frequent = [word for word, count in true.most_common(20)]
    assert all(found.words[word] > 0.9 * true[word] for word in frequent[:10])


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        file = tmp_path / f"{lines}.txt"
        with file.open("w") as out:
            for number in range(lines):
                out.write(f"word{number} and term{number % 97} again\n")
        tracemalloc.start()
        count_words((text for text, _ in stream_documents(str(file))), kept=300)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(400)  # what the first reading alone keeps
    assert peak(40_000) < 1.2 * peak(4_000)


def test_a_text_without_line_breaks_is_read_in_parts(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("word " * 500_000)
    assert max(len(text) for text, _ in stream_documents(str(file))) <= 1 << 20


def test_a_list_keeps_its_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("\ufeffa b\n\n c \n", encoding="utf-8")
    assert read_terms(tmp_path / "terms.txt") == ["a b", "", " c "]
