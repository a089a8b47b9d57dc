"""CoNLL files: comments and columns that count are left out, words are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.config import UserError
from peftkit.config.console import ASSUMPTIONS, log_assumptions
from peftkit.data.tables import read_file

SENTENCES = [["Dear", "Oluwen", "met"], ["in", "Velm"], ["Costs", "#", "5"]]
TAGS = [["O", "B-PER", "O"], ["O", "B-LOC"], ["O", "O", "O"]]


def conll(file: Path, row: str, before: str = "", after: str = "") -> Path:
    """Write the sentences; `row` has {word}, {tag} and the counts {n}, {all} and {sentence}."""
    blocks, total = [], 0
    for number, (words, tags) in enumerate(zip(SENTENCES, TAGS, strict=True)):
        lines = []
        for n, (word, tag) in enumerate(zip(words, tags, strict=True)):
            lines.append(row.format(word=word, tag=tag, n=n, all=total, sentence=number))
            total += 1
        blocks.append(before.format(sentence=number) + "\n".join(lines) + after)
    file.write_text("\n\n".join(blocks) + "\n")
    return file


@pytest.mark.parametrize(
    "row",
    ["{n} {word} {tag}", "{n}\t{word}\t{tag}", "{all} {word} {tag}", "{n}. {word} {tag}", "{sentence} {n} {word} {tag}",
     "s{sentence}-{n} {word} {tag}", "doc1 {sentence} {n} {word} {tag}", "{word} {tag}", "{word}\t{tag}\t",
     "{word}   {tag}"],
)  # fmt: skip
@pytest.mark.parametrize(
    "before", ["", "# sent_id = {sentence}\n", "# text\n", "#begin document ({sentence}); part 0\n"]
)
def test_words_and_tags_are_read_without_counters_and_comments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, before: str
) -> None:
    ASSUMPTIONS.clear()
    table = read_file(conll(tmp_path / "a.conll", row, before))
    assert table.to_dict() == {"tokens": SENTENCES, "tags": TAGS}
    stated = logged(capsys)
    assert ("3 comments" in stated) == bool(before)
    assert ("leading columns with the numbers" in stated) == (not row.startswith("{word}"))


def test_a_hash_in_a_row_is_a_word(tmp_path: Path) -> None:
    file = tmp_path / "a.conll"
    file.write_text("# note\n# O\nnlp O\n# more\n\n#nlp B-X\n# I-X\n")
    assert read_file(file)["tokens"][:] == [["#", "nlp"], ["#nlp", "#"]]
    file.write_text("# sent id\n#\tO\na\tX\n#\t#\nb\tO\n")
    assert read_file(file)["tokens"][:] == [["#", "a", "#", "b"]]


@pytest.mark.parametrize(
    ("row", "cause"),
    [("{n} {tag}", "there is none of words"), ("{word} {tag} {n}", "last column counts words"),
     ("{word}", "line 1 has 1 columns, not 2")],
)  # fmt: skip
def test_a_file_without_words_or_tags_is_refused(tmp_path: Path, row: str, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        read_file(conll(tmp_path / "a.conll", row))


def test_multiword_tokens_with_numbers_are_no_words(tmp_path: Path) -> None:
    file = tmp_path / "a.conll"
    file.write_text("1-2 don't _\n1 do O\n2 n't O\n3 go B-X\n\n1 so O\n1.1 he O\n2 went B-X\n")
    assert read_file(file)["tokens"][:] == [["do", "n't", "go"], ["so", "went"]]


def test_conllu_under_another_name_has_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.conll"
    file.write_text("".join(f"{n}\t{word}\t_\tNOUN\t_\t_\t0\troot\t_\t_\n" for n, word in enumerate("abc", start=1)))
    assert read_file(file)["upos"][0] == ["NOUN"] * 3 and read_file(file)["tokens"][0] == ["a", "b", "c"]


def test_sentences_of_numbers_stay(tmp_path: Path) -> None:
    file = tmp_path / "a.conll"
    file.write_text("1 O\n2 O\n\n7 O\n3 B-X\n")
    assert read_file(file)["tokens"][:] == [["1", "2"], ["7", "3"]]


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    log_assumptions()
    return capsys.readouterr().err
