"""job=leaderboard: tables, a page and plots that compare recorded runs."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, UserError
from peftkit.config.console import is_main_process, log
from peftkit.leaderboard import table
from peftkit.leaderboard.archive import write_archive
from peftkit.leaderboard.board import Board
from peftkit.leaderboard.files import write_tables
from peftkit.leaderboard.latex import write_latex
from peftkit.leaderboard.reading import version_notes
from peftkit.leaderboard.runs import BoardRun
from peftkit.leaderboard.stats import task_score
from peftkit.results.locks import locked_folder
from peftkit.results.run_folder import read_result


def leaderboard(config: RunConfig) -> None:
    """Show every run below `out` and in `results`; write tables, page and plots to `output`, by default below `out`.

    If `output` ends in .parquet, write an archive of the runs instead, which `results` of another command reads. With
    `watch`, serve the page and update it whenever a run finishes, until interrupted.

    Raises:
        UserError: there is no run.
    """
    folders = [Path(config.out), *map(Path, config.results or [])]
    target = Path(config.output) if config.output else Path(config.out) / "leaderboard"
    if config.watch:
        from peftkit.jobs.leaderboard_server import watch

        watch(folders, target, lambda: write(Board.read(folders), target, _command(config)))
        return
    board = Board.read(folders)
    if not board.runs:
        raise UserError(f"out={config.out}: no results; train first: python -m peftkit recipe=lora_glue")
    table.show(board)
    if config.claim is not None:
        show_claim(board, config.claim)
    for note in version_notes(board.runs):
        log(note)
    if target.suffix == ".parquet":
        runs = [each.folder for each in board.runs if isinstance(each, BoardRun)]
        write_archive(runs, target)
        log(f"-> {target}: {len(runs)} runs; read them with job=leaderboard results=[{target}]")
    else:
        write(board, target, _command(config))
        log(f"-> {target}/index.html, also as CSV, Markdown, LaTeX and plots")


def write(board: Board, target: Path, command: str) -> None:
    """Write the tables, index.html, leaderboard.tex, and pareto and heatmap as PNG and SVG."""
    from peftkit.leaderboard.page import page_data, write_page
    from peftkit.leaderboard.plots import write_plots

    with locked_folder(target):  # the files belong together
        write_tables(board, target)
        write_page(page_data(board, command), target / "index.html")
        write_latex(board.entries, board.verdict().groups, target / "leaderboard.tex")
        write_plots(board.entries, board.verdict().groups, target)


def show_runs(folders: Sequence[Path], claim: str | None = None) -> None:
    """Show the table of only these run folders, and the verdict on a claim."""
    if folders and is_main_process():
        board = Board.read(folders)
        table.show(board)
        if claim is not None and not show_claim(board, claim):
            log(f"with runs of other commands and the same out=: python -m peftkit job=leaderboard claim={claim}")


def show_claim(board: Board, name: str) -> bool:
    """Print a claim, the measurements and the verdict; return whether the verdict is conclusive."""
    from peftkit.leaderboard.claims import INCONCLUSIVE, judge_claim

    finding = judge_claim(name, board.entries, board.verdict())
    lines = [f"Claim: {finding.claim}", *(f"  {line}" for line in finding.lines)]
    print(*lines, f"Verdict: {finding.verdict}. {finding.reason[:1].upper()}{finding.reason[1:]}.", sep="\n")
    return finding.verdict != INCONCLUSIVE


def selection_score(found: Any) -> float:
    """Return the score of a run's folder that a sweeper maximizes: the mean of its metrics; -inf where it has none."""
    if not isinstance(found, Path) or not (found / "result.json").is_file():
        return float("-inf")
    scores = (read_result(found) or {}).get("scores")
    return task_score(scores) if scores else float("-inf")


def _command(config: RunConfig) -> str:
    overrides = ["job=leaderboard", f"out={config.out}"]
    overrides += [f"output={config.output}"] if config.output else []
    overrides += [f"results=[{','.join(config.results)}]"] if config.results else []
    return f"python -m peftkit {shlex.join(overrides)}"
