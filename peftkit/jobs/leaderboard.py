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


def leaderboard(config: RunConfig) -> None:
    """Show every run below `out` and in `results`; write tables, page and plots to `output`, else below `out`.

    If `output` ends in .parquet, write an archive of the runs instead, which `results` of another command reads. With
    `watch`, serve the page and update it whenever a run finishes, until interrupted.

    Raises:
        UserError: there is no run.
    """
    folders = [Path(config.out), *map(Path, config.results or [])]
    target = Path(config.output) if config.output else Path(config.out) / "leaderboard"
    if not is_main_process():
        return
    if config.watch:
        from peftkit.jobs.leaderboard_server import watch

        watch(folders, target, lambda: write(collect(folders), target, _command(config)))
        return
    results = collect(folders)
    if not results:
        raise UserError(f"out={config.out}: no results; train first: python -m peftkit recipe=lora_glue")
    known = judged(results)
    table.show(results, known=known)
    if config.claim is not None:
        show_claim(results, config.claim, known)
    for note in version_notes(results):
        log(note)
    if target.suffix == ".parquet":
        runs = [each.folder for each in results if isinstance(each, BoardRun)]
        write_archive(runs, target)
        log(f"-> {target}: {len(runs)} runs; read them with job=leaderboard results=[{target}]")
        return
    write(results, target, _command(config), known)
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

    entries, verdict = known = known or judged(results)
    write_tables(results, target, known)
    write_page(facts(entries, results, verdict, command), target / "index.html")
    write_latex(entries, verdict.groups, target / "leaderboard.tex")
    write_plots(entries, verdict.groups, target)


def show_runs(folders: Sequence[Path], claim: str | None = None) -> None:
    """Show the table of these run folders only, and the verdict on a claim."""
    if folders and is_main_process():
        results = collect(list(folders))
        known = judged(results)
        table.show(results, known=known)
        if claim is not None and not show_claim(results, claim, known):
            log(f"with runs of other commands and the same out=: python -m peftkit job=leaderboard claim={claim}")


def show_claim(results: Sequence[BoardRun | UnreadableRun], name: str, known: tuple[list[BoardEntry], Verdict]) -> bool:
    """Print a claim, what was measured, and the verdict; return whether it is decided."""
    from peftkit.leaderboard.claims import OPEN, judge_claim

    finding = judge_claim(name, *known, [r for r in results if isinstance(r, BoardRun)])
    print(f"Claim: {finding.claim}")
    for line in finding.lines:
        print(f"  {line}")
    print(f"Verdict: {finding.verdict}. {finding.reason[:1].upper()}{finding.reason[1:]}.")
    return finding.verdict != OPEN


def _command(config: RunConfig) -> str:
    overrides = ["job=leaderboard", f"out={config.out}"]
    if config.output:
        overrides.append(f"output={config.output}")
    if config.results:
        overrides.append(f"results=[{','.join(config.results)}]")
    return f"python -m peftkit {shlex.join(overrides)}"
