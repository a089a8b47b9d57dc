"""Content of one data file: what its name ends in, decompressed bytes, and decoded text."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import IO, Any

from peftkit.config.console import assume
from peftkit.config.errors import UserError, error_summary
from peftkit.paths import exists

CONLLU_COLUMNS = ("id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
SQUAD_COLUMNS = ("id", "title", "context", "question", "answers", "is_impossible")  # of its nested articles
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
MAGIC = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ZIP, ZSTANDARD = b"PK\x03\x04", b"\x28\xb5\x2f\xfd"
BOMS = {  # those of UTF-32 first: that of UTF-16 is a part of them
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
HEAD = 1 << 12  # bytes that select the encoding
READ_ERRORS = (
    OSError, ValueError, TypeError, OverflowError, EOFError, NotImplementedError, csv.Error, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, RuntimeError,
)  # fmt: skip


def ending_of(file: Path) -> str:
    """Return the ending of a file's name in lower case, without that of a compression: .csv of reviews.CSV.gz.

    Of a .zip it is the ending of the only file in it.
    """
    name = Path(file.name.lower())
    if name.suffix not in COMPRESSED:
        return name.suffix
    if name.suffix == ".zip" and not Path(name.stem).suffix and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = _members(archive)
        return Path(members[0].lower()).suffix if len(members) == 1 else name.suffix
    return Path(name.stem).suffix


def names_file(text: str, endings: Sequence[str]) -> bool:
    """Return whether an input is the name of a file, and not a text of several words that ends like one."""
    has_ending = ending_of(Path(text)) in endings
    is_name = exists(text) or len(text.split()) == 1
    if has_ending and not is_name:
        assume(f"input is read as a text, as there is no file of this name: {text}")
    return has_ending and is_name


def stem_of(file: Path) -> str:
    """Return the name of a file without its ending and that of a compression."""
    stem = file.stem if file.suffix.lower() in COMPRESSED else file.name
    return Path(stem).stem if Path(stem).suffix.lower() == ending_of(file) else stem


def open_binary(file: Path) -> IO[bytes]:
    """Open a file; its first bytes select the decompression.

    Raises:
        UserError: a zip archive has several files, or the compression is not supported.
    """
    with file.open("rb") as raw:
        head = raw.read(8)
    if head.startswith(ZSTANDARD):
        raise UserError(f"{file} is compressed by Zstandard; decompress it: zstd -d {quote(str(file))}")
    if head.startswith(ZIP):
        return _open_member(file)
    return next((open_it for magic, open_it in MAGIC.items() if head.startswith(magic)), Path.open)(file, "rb")  # type: ignore[no-any-return, operator]


def open_text(file: Path, newline: str | None = "") -> IO[str]:
    """Open a file as text in UTF-8, UTF-16 or UTF-32; where it is not UTF-8, that is stated.

    Raises:
        UserError: as `open_binary`.
    """
    with open_binary(file) as data:
        head = data.read(HEAD)
    encoding = next((name for bom, name in BOMS.items() if head.startswith(bom)), None) or _encoding_of(head)
    if not encoding.startswith("utf-8"):
        assume(f"{file}: read as {encoding.upper()}")
    return io.TextIOWrapper(open_binary(file), encoding=encoding, newline=newline)


def read_text(file: Path) -> str:
    """Return the text of a file, with its line ends unchanged."""
    with open_text(file) as text:
        return text.read()


def parse_json_lines(file: Path, lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of each line that is not blank; a raw U+2028 in a text ends no line."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file}: line {number} is not JSON ({error.msg}); write one object per line"
                ) from error


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raise a UserError with the cause where the file cannot be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        convert = f"iconv -f latin1 -t utf-8 {quote(str(file))} > new{ending_of(file)}"
        raise UserError(
            f"{file}: the file is not in UTF-8; "
            + (
                "decompress it, and convert it by iconv"
                if file.suffix in COMPRESSED
                else f"convert it, with its encoding in place of latin1: {convert}"
            )
        ) from error
    except Exception as error:
        # Arrow's own errors have no base class among those of Python, and importing it only for them takes time
        if not isinstance(error, READ_ERRORS) and type(error).__module__ != "pyarrow.lib":
            raise
        raise UserError(f"{file}: {error_summary(error)}; correct the file, or use another one") from error


def _encoding_of(head: bytes) -> str:
    """Return UTF-16 where every second byte of a file without a byte order mark is 0, as in Latin text; else UTF-8."""
    halves = head[0::2].count(0), head[1::2].count(0)
    if max(halves) > 0.4 * (len(head) // 2) and min(halves) == 0:
        return "utf-16-be" if halves[0] else "utf-16-le"
    return "utf-8"


def _members(archive: zipfile.ZipFile) -> list[str]:
    """Return the files of an archive without those that macOS adds."""
    return [
        name
        for name in archive.namelist()
        if not name.endswith("/") and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    ]


def _open_member(file: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(file)
    members = _members(archive)
    if "[Content_Types].xml" in members:
        raise UserError(f"{file} is a workbook of Excel or LibreOffice; save it as csv in UTF-8")
    if len(members) != 1:
        raise UserError(
            f"{file} has {len(members)} files ({', '.join(members[:4])}), not one; "
            f"unzip it: unzip {quote(str(file))} -d {quote(str(file.with_suffix('')))}, and use that folder"
        )
    return archive.open(members[0])
