"""job=leaderboard: tables, a page and plots that compare recorded runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from peftkit.config import RunConfig, UserError
from peftkit.leaderboard import table
from peftkit.leaderboard.archive import write_archive
from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.files import write_tables
from peftkit.leaderboard.reading import collect, version_notes
from peftkit.leaderboard.runs import BoardRun, UnreadableRun
from peftkit.leaderboard.verdict import Verdict, judged
from peftkit.results.console import is_main_process, log


def leaderboard(run: RunConfig) -> None:
    """Show every run below `out` and in `results`; write tables, page and plots to `output`, else below `out`.

    An `output` that ends in .parquet becomes an archive of the runs instead, for `results` of another command. With
    `watch`, serve the page and write everything again whenever a run finishes, until interrupted.

    Raises:
        UserError: there is no run.
    """
    folders = [Path(run.out), *map(Path, run.results or [])]
    target = Path(run.output) if run.output else Path(run.out) / "leaderboard"
    if not is_main_process():
        return
    if run.watch:
        from peftkit.jobs.leaderboard_server import watch

        watch(folders, target, lambda: write(collect(folders), target, _command(run)))
        return
    results = collect(folders)
    if not results:
        raise UserError(f"{run.out} holds no results; train first: python -m peftkit recipe=lora_glue")
    known = judged(results)
    table.show(results, known=known)
    if run.claim is not None:
        show_claim(results, run.claim, known)
    for note in version_notes(results):
        log(note)
    if target.suffix == ".parquet":
        runs = [each.folder for each in results if isinstance(each, BoardRun)]
        write_archive(runs, target)
        log(f"-> {target}: {len(runs)} runs, to read with job=leaderboard results=[{target}]")
        return
    write(results, target, _command(run), known)
    log(f"-> {target}/index.html, also as CSV, Markdown, LaTeX and plots")


def write(
    results: Sequence[BoardRun | UnreadableRun],
    target: Path,
    command: str,
    known: tuple[list[BoardEntry], Verdict] | None = None,
) -> None:
    """Write the tables, index.html, leaderboard.tex, and pareto and heatmap as PNG and SVG."""
    from peftkit.leaderboard.latex import write_latex
    from peftkit.leaderboard.page import facts, write_page
    from peftkit.leaderboard.plots import write_plots

    rows, verdict = known = known or judged(results)
    write_tables(results, target, known)
    write_page(facts(rows, results, verdict, command), target / "index.html")
    write_latex(rows, verdict.groups, target / "leaderboard.tex")
    write_plots(rows, verdict.groups, target)


def show_runs(folders: Sequence[Path], claim: str | None = None) -> None:
    """Show the table over these run folders alone, and the verdict on a claim."""
    if folders and is_main_process():
        results = collect(list(folders))
        known = judged(results)
        table.show(results, known=known)
        if claim is not None and not show_claim(results, claim, known):
            log(f"with runs of other commands below the same out=: python -m peftkit job=leaderboard claim={claim}")


def show_claim(results: Sequence[BoardRun | UnreadableRun], name: str, known: tuple[list[BoardEntry], Verdict]) -> bool:
    """Print a claim, what was measured, and the verdict; return whether it is decided."""
    from peftkit.leaderboard.claims import OPEN, judge_claim

    finding = judge_claim(name, *known, [r for r in results if isinstance(r, BoardRun)])
    print(f"Claim: {finding.claim}")
    for line in finding.lines:
        print(f"  {line}")
    print(f"Verdict: {finding.verdict}. {finding.reason[:1].upper()}{finding.reason[1:]}.")
    return finding.verdict != OPEN


def _command(run: RunConfig) -> str:
    words = ["job=leaderboard", f"out={run.out}"]
    if run.output:
        words.append(f"output={run.output}")
    if run.results:
        words.append(f"results=[{','.join(run.results)}]")
    return f"python -m peftkit {shlex.join(words)}"
