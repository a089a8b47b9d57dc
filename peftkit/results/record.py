"""The structure of result.json, as a finished training run writes it."""

from __future__ import annotations

from typing import Any, TypedDict

SCHEMA = 2  # version 0.1 wrote none


class SourceRecord(TypedDict, total=False):
    """Where the base model or the data came from; the fields of `Source` without its local folder."""

    kind: str  # hub, cache, folder or offline
    name: str  # Hub id, path, or name of the offline one
    revision: str | None  # commit, or hash of the files
    substituted_for: str | None  # what the config names, where something offline replaces it
    pooling: str | None  # of a model: cls, mean or last


class ConfigRecord(TypedDict):
    """What was run: `config` is the resolved config, `overrides` what was typed."""

    recipe: str | None
    config: dict[str, Any]
    overrides: list[str]
    setup: dict[str, Any]  # processes, precision, and hashes of the files behind vocab= and distill.teacher=


class Score(TypedDict):
    value: float
    higher_is_better: bool


class AuditRecord(TypedDict, total=False):
    """What was counted, by split. Only `sources` is there from the start."""

    sources: dict[str, SourceRecord]  # model, data
    fresh: list[str]  # newly initialized weights below and in the head
    label_names: list[str] | None
    rows: dict[str, int]  # examples
    truncated: dict[str, int]
    dropped: dict[str, int]
    label_counts: dict[str, dict[str, Any]]
    taught: dict[str, Any]  # a teacher's answers: written, empty, cut
    shots: dict[str, Any]  # examples in prompts: requested, drawn, left out


class MetaRecord(TypedDict):
    """How to run it again, and how it ended."""

    seed: int
    git: str | None
    versions: dict[str, str | None]
    device: str
    precision: str
    started: str  # UTC, ISO 8601
    status: str  # running, finished, failed or interrupted
    reason: str | None


class ForgettingRecord(TypedDict):
    """Language modeling before and after fine-tuning, as job=forgetting measures it."""

    measure: str
    unit: str
    reason: str | None  # why no loss is measured
    text: str
    text_revision: str
    tokens: int
    before: float
    after: float
    off_difference: float
    curve: list[dict[str, float]]  # scale, loss, score
    curve_reason: str | None


class RunRecord(TypedDict, total=False):
    """result.json of a training run; the sections from `gates` on are there where they apply."""

    schema: int
    run: ConfigRecord
    scores: dict[str, Score]
    costs: dict[str, Any]  # parameters, bytes, seconds, tokens
    audit: AuditRecord
    search: dict[str, Any] | None  # trials, chosen rate, curve
    forgetting: ForgettingRecord | None
    meta: MetaRecord
    gates: dict[str, Any]  # differences after reloading and between paddings
    curve: list[dict[str, float]]  # of a trial: epoch, seconds, score
    language: dict[str, Any]  # bits per byte before and after
    merge: dict[str, Any]  # a quantized base: changes when merged
    judged: dict[str, Any]  # by judge: pairwise comparisons
