"""The leaderboard as LaTeX tables."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from peftkit.leaderboard.files import escaped
from peftkit.leaderboard.rendering import FLAG, figure, score_names
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import NOT_BETTER, Ranking, rank_tasks
from peftkit.paths import atomic_write

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{c: f"\\{c}" for c in "#$%&_{}"},
    **{c: f"{{{c}}}" for c in "[]*"},  # at the start of a line they would be arguments of the preceding line break
}  # fmt: skip


def write_latex(entries: Sequence[BoardEntry], groups: Sequence[str], file: Path) -> None:
    r"""Write a booktabs table for each board: mean and spread over seeds, letters of groups, the best in bold.

    The best is bold only where it differs significantly from every other entry of its task and from the baseline. Needs
    \usepackage{booktabs}; names in other scripts than Latin need XeLaTeX or LuaLaTeX and a font that has them.
    """
    boards = groupby(rank_tasks(entries, groups), key=lambda ranking: ranking.board)
    text = "% \\usepackage{booktabs}\n" + "".join(
        _table(board, list(members), entries, groups) for board, members in boards
    )
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")


def _table(board: str, members: Sequence[Ranking], entries: Sequence[BoardEntry], groups: Sequence[str]) -> str:
    methods: dict[str, dict[str, str]] = {}
    baselines: dict[str, dict[str, str]] = {}
    for ranking in members:
        best = ranking.top[0] if ranking.is_tested and len(ranking.top) == 1 else None
        for number in [*ranking.ranked, *ranking.failed, *ranking.baselines]:
            entry = entries[number]
            is_bold = number == best and entry.against_baseline != NOT_BETTER
            text = _value(entry, groups[number], is_bold)
            (baselines if entry.is_baseline else methods).setdefault(entry.label, {})[ranking.task] = text
    heads = " & ".join(_text(ranking.task) for ranking in members)
    body = "\\midrule\n".join(_lines(lines, members) for lines in (methods, baselines) if lines)
    return (
        f"\n\\begin{{table}}\n\\centering\n\\caption{{{_caption(board, members, entries)}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(members)}}}\n\\toprule\nMethod & {heads} \\\\\n\\midrule\n{body}"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def _lines(lines: dict[str, dict[str, str]], members: Sequence[Ranking]) -> str:
    return "".join(
        f"{_text(name)} & {' & '.join(values.get(ranking.task, '--') for ranking in members)} \\\\\n"
        for name, values in lines.items()
    )


def _caption(board: str, members: Sequence[Ranking], entries: Sequence[BoardEntry]) -> str:
    ranked = [entries[number] for ranking in members for number in ranking.ranked]
    of = "; ".join(f"{task}: {name}" for task, name in score_names(ranked).items())
    letters = "Differences were not tested."
    if any(ranking.is_tested for ranking in members):
        letters = "Entries of a task that share a letter do not differ significantly."
    if any(entry.against_baseline == NOT_BETTER for entry in ranked):
        letters += f" $\\dagger$ {FLAG}: not significantly better than the baseline that always has the same answer."
    scores = f"Scores times 100{f' ({_text(of)})' if of else ''}"
    return f"{_text(board)}. {scores}, mean $\\pm$ standard deviation over seeds. {letters}"


def _value(entry: BoardEntry, letters: str, is_bold: bool) -> str:
    if entry.score is None:
        return entry.without_score
    score, spread = figure(entry, entry.score), entry.spread
    shown = "" if spread is None else f" $\\pm$ {figure(entry, spread) if entry.greater_is_better else f'{spread:.2g}'}"
    dagger = "$\\dagger$" if entry.against_baseline == NOT_BETTER else ""
    mark = f"\\textsuperscript{{{_text(letters)}{dagger}}}" if letters or dagger else ""
    return (f"\\textbf{{{score}}}" if is_bold else score) + shown + mark


def _text(text: str) -> str:
    return escaped(text, LATEX)
