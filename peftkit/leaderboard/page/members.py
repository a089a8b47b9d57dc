"""Turn rows back into the runs that they were made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.runs import RecordedRun, UnreadableRun


def members_of(rows: Sequence[BoardEntry], results: Sequence[RecordedRun | UnreadableRun]) -> list[list[RecordedRun]]:
    """Return each row's runs by seed: those with scores, and those of the same choice that failed."""
    readable = [result for result in results if isinstance(result, RecordedRun)]
    by_folder = {result.folder: result for result in readable}
    failed: dict[tuple, list[RecordedRun]] = {}
    for r in readable:
        if r.problem:
            failed.setdefault((r.suite, r.task, r.model, r.method, _text(r.settings)), []).append(r)
    members = []
    for row in rows:
        scored = [by_folder[folder] for folder in row.folders.values()]
        settings = {name: value for name, value in row.all_settings.items() if not name.startswith("rows.")}
        others = failed.get((row.suite, row.task, row.model, row.method, _text(settings)), [])
        # a stand-in's failure is not the real one's, and one that counted other rows belongs to them
        own = [r for r in others if (not scored or r.group == scored[0].group) and r.rows in ({}, row.rows)]
        members.append(sorted(scored + own, key=lambda result: result.seed))
    return members


def _text(settings: Mapping[str, str]) -> str:
    return json.dumps(settings, sort_keys=True)
