"""The leaderboard as LaTeX tables: methods by tasks, one table for each board."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from peftkit.leaderboard.cells import figure
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import Ranking, rank_tasks

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{c: f"\\{c}" for c in "#$%&_{}"},
    **{c: f"{{{c}}}" for c in "[]*"},  # at the start of a line they would be arguments of the preceding line break
}  # fmt: skip


def write_latex(entries: Sequence[BoardEntry], groups: Sequence[str], file: Path) -> None:
    r"""Write a booktabs table for each board: mean and spread over seeds, letters of tied groups, the best in bold.

    The best is bold only where it differs significantly from every other entry of its task. Needs
    \usepackage{booktabs}; names in other scripts than Latin need XeLaTeX or LuaLaTeX and a font that has them.
    """
    boards = groupby(rank_tasks(entries, groups), key=lambda cell: cell.board)
    text = "% \\usepackage{booktabs}\n" + "".join(
        _table(board, list(members), entries, groups) for board, members in boards
    )
    file.write_text(text, encoding="utf-8")


def _table(board: str, members: Sequence[Ranking], entries: Sequence[BoardEntry], groups: Sequence[str]) -> str:
    lines: dict[str, dict[str, str]] = {}
    for cell in members:
        is_sole_best = cell.is_tested and len(cell.top) == 1
        for number in [*cell.ranked, *cell.failed]:
            text = _value(entries[number], groups[number], is_bold=is_sole_best and number == cell.top[0])
            lines.setdefault(entries[number].label, {})[cell.task] = text
    body = "".join(
        f"{_escaped(name)} & {' & '.join(values.get(cell.task, '--') for cell in members)} \\\\\n"
        for name, values in lines.items()
    )
    tested = any(cell.is_tested for cell in members)
    letters = (
        "Entries of a task that share a letter do not differ significantly."
        if tested
        else "Differences were not tested."
    )
    caption = f"{_escaped(board)}. Scores times 100, mean $\\pm$ standard deviation over seeds. {letters}"
    return (
        f"\n\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(members)}}}\n\\toprule\n"
        f"Method & {' & '.join(_escaped(cell.task) for cell in members)} \\\\\n\\midrule\n{body}"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def _value(entry: BoardEntry, letters: str, is_bold: bool) -> str:
    if entry.score is None:
        return entry.without_score
    score, spread = figure(entry, entry.score), entry.spread
    shown = "" if spread is None else f" $\\pm$ {figure(entry, spread) if entry.is_up else f'{spread:.2g}'}"
    mark = f"\\textsuperscript{{{_escaped(letters)}}}" if letters else ""
    return (f"\\textbf{{{score}}}" if is_bold else score) + shown + mark


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(c, c if c.isprintable() else " ") for c in text)
