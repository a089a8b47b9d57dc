"""Files as users have them: compression, encodings, dialects of csv and tsv, and the splits of a folder."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pytest

from peftkit.config import UserError
from peftkit.config.console import ASSUMPTIONS, log_assumptions
from peftkit.config.files import ending_of, open_text, read_cells, read_text, split_files, stem_of

ROWS = [["text", "label"], ["a fine film, so", "pos"], ["ça; naïve", "neg"], ["東京 2", "neg"]]
PLAIN = "text,label\na,x\n"


@pytest.fixture(autouse=True)
def _forget_what_was_logged() -> None:
    ASSUMPTIONS.clear()


def written(file: Path, rows: list[list[str]], encoding: str = "utf-8", **dialect: object) -> Path:
    with file.open("w", encoding=encoding, newline="") as out:
        csv.writer(out, **dialect).writerows(rows)  # type: ignore[arg-type]
    return file


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-16-be-bom"]
)
def test_unicode_encodings_are_read_alike(tmp_path: Path, encoding: str) -> None:
    text, name = "text,label\na fine film,x\nçeşme 東京,y\n", encoding.removesuffix("-bom")
    file = tmp_path / "a.csv"
    file.write_bytes((("\ufeff" if encoding.endswith("bom") else "") + text).encode(name))
    assert read_text(file) == text
    assert list(read_cells(file))[2] == ["çeşme 東京", "y"]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zip", ""])
def test_compressed_files_are_read_whatever_their_name(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.CSV{ending}"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("folder/a.csv", PLAIN)
        archive.writestr("__MACOSX/folder/._a.csv", b"\x00\x05")
        archive.writestr("folder/.DS_Store", b"")
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": lambda _: packed.getvalue()}
    file.write_bytes(pack.get(ending, gzip.compress)(PLAIN.encode()))
    assert list(read_cells(file)) == [["text", "label"], ["a", "x"]]
    assert (ending_of(file), stem_of(file)) == (".csv", "a")
    if ending == ".zip":
        assert ending_of(file.rename(tmp_path / "b.zip")) == ".csv"


def test_archives_without_a_single_table_are_refused(tmp_path: Path) -> None:
    for names, hint in (
        (["a.csv", "b.csv"], r"2 files \(a.csv, b.csv\).*unzip"),
        (["[Content_Types].xml"], "workbook"),
    ):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in names:
                archive.writestr(name, PLAIN)
        with pytest.raises(UserError, match=hint):
            open_text(tmp_path / "a.zip")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_dialect_is_detected_and_an_unusual_one_is_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], delimiter: str, quoting: int, ending: str
) -> None:
    rows = [*ROWS, ['he said "so"\nand, left', "pos"], ["a\ttab; b | c", "neg"]]
    file = written(tmp_path / f"a.{ending}", rows, delimiter=delimiter, quoting=quoting)
    assert list(read_cells(file)) == rows
    assert ("delimiter" in logged(capsys)) == (delimiter != "," or ending == "tsv")


@pytest.mark.parametrize("first", ['"sep=,"', "sep=,", "sep=;", "SEP=|", "sep=\t", '"sep=,",', "sep=,,"])
def test_a_line_that_sets_the_delimiter_is_no_row(tmp_path: Path, first: str) -> None:
    delimiter = next(letter for letter in first if letter in ",;|\t")
    file = tmp_path / "a.csv"
    file.write_text(first + "\r\n" + "text,label\r\na,x\r\n".replace(",", delimiter), newline="")
    assert list(read_cells(file)) == [["text", "label"], ["a", "x"]]


def test_quotation_marks_that_belong_to_texts_of_a_tsv_stay(tmp_path: Path) -> None:
    for number, texts in enumerate((['"Great" film', "b"], ['"Great film"', "b"], ['"so', "b"], ['5" disk', 'a "b"'])):
        file = tmp_path / f"{number}.tsv"
        file.write_text("text\tlabel\n" + "".join(f"{text}\tx\n" for text in texts))
        assert [cells[0] for cells in read_cells(file)] == ["text", *texts]
    file.write_text('text\tlabel\n"a b"\tx\n"c d"\ty\n')  # every text is quoted
    assert [cells[0] for cells in read_cells(file)] == ["text", "a b", "c d"]


def test_a_space_after_each_delimiter_is_no_part_of_a_cell(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('text, label\n"a, b", x\nc, y\n')
    assert list(read_cells(file)) == [["text", "label"], ["a, b", "x"], ["c", "y"]]


def test_a_semicolon_file_with_a_long_row_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text;label\na;b;x\nc;y\n")
    with pytest.raises(UserError, match="line 2: it has 3 cells, but the header has 2"):
        list(read_cells(file))


def folder_of(at: Path, *names: str) -> Path:
    for name in names:
        (at / name).parent.mkdir(exist_ok=True, parents=True)
        (at / name).write_text(PLAIN)
    return at


def split_names(folder: Path, *named: str) -> dict[str, list[str]]:
    return {name: [file.name for file in files] for name, files in split_files(folder, named).items()}


def test_shards_are_one_split_in_their_order(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, *(f"train-{n:05}-of-00011.csv" for n in range(11)), "validation-00000-of-00001-8a7f.csv.gz"
    )
    splits = split_names(folder)
    assert splits["train"] == [f"train-{n:05}-of-00011.csv" for n in range(11)] and len(splits) == 2
    (folder / "train-00003-of-00011.csv").unlink()
    with pytest.raises(UserError, match="10 of 11 files of the split train: number 3 is missing"):
        split_files(folder)


def test_numbered_files_are_one_split_and_years_are_several(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train_1.csv", "train_2.csv", "train_10.csv", "test_2019.csv", "test_2020.csv")
    with pytest.raises(UserError, match="3 of 10 files of the split train: number 3 is missing"):
        split_files(folder)
    (folder / "train_10.csv").rename(folder / "train_3.csv")
    assert split_names(folder) == {
        "train": ["train_1.csv", "train_2.csv", "train_3.csv"],
        "test_2019": ["test_2019.csv"],
        "test_2020": ["test_2020.csv"],
    }
    assert set(split_names(folder, "train_1", "train_2", "train_3")) >= {"train_1", "train_2", "train_3"}


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["train-00001-of-00002.csv"], "1 of 2 files of the split train: number 0"),
        (["train-1-of-2.csv"], "1 of 2 files of the split train: number 0"),
        (["train-00000-of-00001.csv", "train-00000-of-00002.csv"], "two files for shard 0"),
        (["train-00000-of-00001.csv", "train-00001-of-00002.csv"], "shards of train of 1 and of 2"),
        (["train-00000-of-00001.csv", "train.csv"], "train.csv and shards of the split train"),
        (["train-0-of-2.csv", "train-1-of-2.tsv"], "as .csv and .tsv"),
        (["train.csv", "train.csv.gz"], "two files for the split train, train.csv and train.csv.gz"),
        (["other/train.csv"], "use the folder .*other"),
        ([".train.csv"], "use a folder with train"),
    ],
)
def test_an_incomplete_folder_is_refused(tmp_path: Path, names: list[str], cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        split_files(folder_of(tmp_path, *names))


def test_subfolders_may_be_splits(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train/0000.csv", "train/0001.csv", "validation/part-0-of-1.csv", "docs/a.csv")
    assert split_names(folder) == {"train": ["0000.csv", "0001.csv"], "validation": ["part-0-of-1.csv"]}
    copy = folder_of(tmp_path / "clone", "data/train.csv", "data/test.csv", "dataset_infos.json", "train.txt")
    assert split_names(copy) == {"test": ["test.csv"], "train": ["train.csv"]}
    (folder / "validation" / "part-0-of-1.csv").rename(folder / "validation" / "part-0-of-2.csv")
    with pytest.raises(UserError, match="validation has 1 of 2 files"):
        split_files(folder)


def test_files_that_are_no_data_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(
        tmp_path, "train.csv", "._train.csv", ".DS_Store", "__MACOSX/x.csv", "dataset_info.json", "all_results.json",
        ".ipynb_checkpoints/train-checkpoint.csv", "~lock.csv#",
    )  # fmt: skip
    assert split_names(folder) == {"train": ["train.csv"]}
    assert "all_results.json, dataset_info.json" in logged(capsys)
    assert set(split_names(folder, "all_results")) == {"train", "all_results"}
    other = folder_of(tmp_path / "squad", "train-v2.0.json", "dev-v2.0.json", "readme.json")
    assert set(split_names(other)) == {"train-v2.0", "dev-v2.0"}


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    log_assumptions()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "comments"),
    [
        ("# made by hand, in May, by x\n# two classes\ntext,label\na,x\nb,y\n", 2),
        ("# about\r\n\r\ntext,label\r\na,x\r\n", 1),
        ("## about\n#,text,label\n1,a,x\n", 1),
        ("#,text,label\n1,a,x\n", 0),
        ("#text,label\n#fun,x\n#b,y\n", 0),
        ('# "about\ntext\tlabel\n"a ""b"""\tx\n', 1),
    ],
)
def test_comments_before_the_header_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, comments: int
) -> None:
    file = tmp_path / ("a.tsv" if "\t" in text else "a.csv")
    file.write_text(text, newline="")
    header = next(cells for cells in csv.reader(io.StringIO(text.split("\n", comments)[comments])) if cells)
    names = header[0].split("\t") if "\t" in text else header
    rows = list(read_cells(file))
    assert rows[0] == names and (rows[1][0] == 'a "b"' or "\t" not in text)
    assert ("left out" in logged(capsys)) == bool(comments)


def test_a_row_after_comments_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("# about\ntext,label\n" + "a,x\n" * 20_000 + "b\n")
    with pytest.raises(UserError, match="line 20003: it has 1 cells"):
        list(read_cells(tmp_path / "a.csv"))
