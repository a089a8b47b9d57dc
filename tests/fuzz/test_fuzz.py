"""A seeded fiftieth of the campaign of tests/benchmarks/robustness.py: no command ends in any other way than it may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.fork_server import ForkServer
from hypothesis import strategies as st

from fuzz.campaign import for_each, make_workspace, run_files
from fuzz.commands import commands
from fuzz.damage import damaged_runs
from fuzz.everyday import deletions, everyday
from fuzz.oracle import Example, Workspace
from fuzz.tables import data_files

SEED = 0


@pytest.fixture(scope="module")
def workspace(
    fork_server: ForkServer, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("fuzz"), fork_server, checkpoints["bert"].parent)


def check(workspace: Workspace, strategy: st.SearchStrategy[Example], count: int, entry: str | None = None) -> None:
    """Try random examples, all of them before the first fault is shown."""
    found = []

    def visit(example: Example) -> None:
        finished, wrong = workspace.attempt(example if entry is None else replace(example, entry=entry))
        if wrong:
            found.append(f"{wrong} {example}\n{finished.output[-1500:]}")

    for_each(strategy, count, SEED, visit)
    assert not found, "\n\n".join(found)


def test_commands_are_refused_or_valid(workspace: Workspace) -> None:
    check(workspace, commands(), 30, "fuzz.reading:validate")


def test_commands_of_everyday_jobs_end_well(workspace: Workspace) -> None:
    check(workspace, everyday(), 10, "fuzz.reading:validate")


@pytest.mark.slow
def test_runs_are_deleted_inside_out_alone(workspace: Workspace) -> None:
    check(workspace, deletions(), 20)


def test_damaged_runs_are_used_or_refused(workspace: Workspace) -> None:
    check(workspace, damaged_runs(run_files(workspace)), 30, "fuzz.reading:open_runs")


def test_data_files_are_read_or_refused(workspace: Workspace) -> None:
    check(workspace, data_files(), 16)


def test_data_files_are_planned_or_refused(workspace: Workspace) -> None:
    check(workspace, data_files(command=True), 4)
