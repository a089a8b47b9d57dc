"""Data files as users have them: compression, encodings, dialects of csv and tsv, and the splits of a folder."""

from peftkit.config.files.content import (
    CONLLU_COLUMNS,
    SQUAD_COLUMNS,
    ending_of,
    names_file,
    open_binary,
    open_text,
    parse_json_lines,
    read_text,
    reading,
    stem_of,
)
from peftkit.config.files.dialect import check_names, read_cells
from peftkit.config.files.splits import check_whole, saved_splits, split_files, visible_files

__all__ = [
    "CONLLU_COLUMNS", "SQUAD_COLUMNS", "check_names", "check_whole", "ending_of", "names_file", "open_binary",
    "open_text", "parse_json_lines", "read_cells", "read_text", "reading", "saved_splits", "split_files", "stem_of",
    "visible_files",
]  # fmt: skip
