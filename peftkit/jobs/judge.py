"""Turn finished runs and a model into how often the answers of one are preferred, and how far to trust that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from peftkit.config import Generate, RunConfig, error_summary
from peftkit.config.source import Source
from peftkit.generation import judging
from peftkit.generation.client import Budget, GenerationClient
from peftkit.generation.journal import Journal
from peftkit.generation.judging import AnswerPair
from peftkit.paths import safe_name
from peftkit.pipeline.answer_pairs import pair_runs, pair_with_references
from peftkit.pipeline.generators import generator_device, generator_precision, load_generator, resolve_generator
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log, progress_logger

REFERENCES = "the references"
DECIDES = ("max_answer_tokens", "chat", "quantization", "request")  # of generate: what else another judge would have
WRITTEN = ("journal.jsonl", "judged.jsonl", "judge.json")


def judge(run: RunConfig) -> Path:
    """Let a model compare a run's answers with the references, or with those of another run, in both orders.

    Returns:
        The folder of the verdicts: in the run folder, or under out/judge where there are two runs.

    Raises:
        UserError: the runs do not fit together, their data has changed, or the endpoint wants something else.
        GeneratorError: the endpoint gives no reply any more.
    """
    settings = run.generate
    assert settings is not None  # its section is in config.yaml
    folders = [Path(folder) for folder in ([run.run] if run.run is not None else run.runs or [])]
    is_alone = len(folders) == 1
    pairs, hidden = pair_with_references(run, folders[0]) if is_alone else (pair_runs(run, folders), 0)
    model = resolve_generator(run, settings)
    who = _identity(run, settings, model)
    folder, wanted = _folder(run, folders, who, pairs), pairs[: run.task.max_eval_samples]
    names = (_name(folders[0]), REFERENCES if is_alone else _name(folders[1]))
    if not run.force and (done := _finished(folder, len(wanted))):
        log(f"finished already: {folder} (force=true asks again)")
        if is_alone and is_main_process():  # the run may have been trained again since
            _note(folders[0], done)
        _tell(done)
        return folder
    if not is_main_process():  # under torchrun one process asks for all
        return folder
    if sentence := model.substitution("MODEL"):
        log(f"!! {sentence}")
    if hidden:
        log(f"!! {hidden} rows have no reference; they are not judged")
    log(f"{names[0]} against {names[1]}, {len(wanted)} of {len(pairs)} rows, judged by {who['name']} -> {folder}")
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    result: dict[str, Any] = {
        "run": {"config": run.to_dict(), "overrides": list(run.overrides)},
        "first": names[0],
        "second": names[1],
        "judge": who,
        "meta": run_folder.meta(run.seed, generator_device(settings), generator_precision(settings), started),
        "of": len(pairs),
        "asked_for": len(wanted),
    }
    with ExitStack() as stack:
        run_folder.lock(stack, folder)
        for name in WRITTEN if run.force else ():
            (folder / name).unlink(missing_ok=True)
        try:
            _ask(stack, run, settings, model, wanted, folder, result)
        except BaseException as error:
            _write(folder, {**result, "meta": {**result["meta"], "status": "failed", "reason": error_summary(error)}})
            raise
        if is_alone and result["ended"] is None:
            _note(folders[0], result)
        _write(folder, result)
    _tell(result)
    log(f"-> {folder}; every verdict with its replies: {folder / 'judged.jsonl'}")
    return folder


def _ask(
    stack: ExitStack,
    run: RunConfig,
    settings: Generate,
    model: Source,
    pairs: Sequence[AnswerPair],
    folder: Path,
    result: dict[str, Any],
) -> None:
    """Replay the replies that the folder holds, ask for the rest, and lay verdicts and figures into it."""
    journal = stack.enter_context(Journal(folder / "journal.jsonl"))
    ask = GenerationClient(load_generator(settings, model, bool(journal.rows)), journal, Budget.of(settings), run.seed)
    if ask.requests:
        log(f"going on in {folder}: {ask.requests:,} replies so far")
    told = progress_logger(lambda done: _progress(ask, done, len(pairs)))
    judged, ended = judging.judge_pairs(pairs, ask, settings.max_answer_tokens, settings.batch, told)
    result |= {**judging.judging_statistics(judged), "ended": ended}
    result["costs"] = {**ask.spent(), "cost": ask.cost if ask.ceilings.has_prices else None}
    result["meta"] |= {"status": "finished" if ended is None else "ended"}
    lines = (json.dumps(each.row(), ensure_ascii=False) for each in judged)
    run_folder.write_text(folder / "judged.jsonl", "".join(f"{line}\n" for line in lines))


def _identity(run: RunConfig, settings: Generate, model: Source) -> dict[str, Any]:
    """Return what verdicts hang on besides the answers; two judges are one where their `id` is."""
    who: dict[str, Any] = {
        "name": Path(model.name).name if model.kind == "folder" else model.name,
        "generator": settings.generator,
        "revision": model.revision,
        "stands_in_for": model.substituted_for,
        "wording": judging.PROMPT_ID,
        "seed": run.seed,
        **{key: asdict(settings)[key] for key in DECIDES},
    }
    return {**who, "id": _digest(who)}


def _folder(run: RunConfig, folders: Sequence[Path], who: Mapping[str, Any], pairs: Sequence[AnswerPair]) -> Path:
    """Return RUN/judged/<judge>-<id>, or out/judge/<A>--<B>-<id>: the id is of the judge, and of all that is compared.

    How many rows are asked for is no part of it: more of them go on from those that are there.
    """
    run_id = _digest([who, [asdict(pair) for pair in pairs]])
    if len(folders) == 1:
        return folders[0] / "judged" / f"{safe_name(who['name'].strip('/'))[-60:]}-{run_id}"
    return Path(run.out, "judge", f"{'--'.join(safe_name(_name(each))[-60:] for each in folders)}-{run_id}")


def _name(folder: Path) -> str:
    """Name a run by its method, seed and id."""
    whole = folder.resolve()
    return f"{whole.parent.name}-{whole.name}"


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _finished(folder: Path, rows: int) -> dict[str, Any] | None:
    """Return what a folder holds where it is of as many rows as are asked for, or more."""
    file = folder / "judge.json"
    if not file.is_file():
        return None
    result = json.loads(file.read_text())
    return result if result["meta"]["status"] == "finished" and result["rows"] >= rows else None


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    run_folder.write_text(folder / "judge.json", json.dumps(result, indent=1, default=str) + "\n")


def _note(folder: Path, result: Mapping[str, Any]) -> None:
    """Lay the figures into the run's own result, beside those of other judges; two may end at once."""
    left_out = ("run", "first", "second", "meta", "ended")
    found = {name: value for name, value in result.items() if name not in left_out}
    run_folder.amend_result(
        folder, lambda told: told.update(judged={**(told.get("judged") or {}), result["judge"]["id"]: found})
    )


def _progress(ask: GenerationClient, done: int, rows: int) -> str:
    money = f", cost {ask.cost:.4f}" if ask.ceilings.has_prices else ""
    return f"{done:,} of {rows:,} rows, {ask.requests:,} requests{money}"


def _tell(result: Mapping[str, Any]) -> None:
    """Print the figures as a small table, and loudly what takes their worth away."""
    if not is_main_process():
        return
    rows, wanted, costs = result["rows"], result["asked_for"], result["costs"]
    if result["ended"] is not None:
        log(f"!! {rows:,} of {wanted:,} rows: it ended by generate.{result['ended']}; raise it to go on")
    if not rows:
        return
    if (share := result["unparsable_share"]) is not None and share > 0.5:
        log(
            f"!! {share:.0%} of the replies hold no verdict and count as ties: {result['judge']['name']} does not keep "
            "to the form that is asked for; these figures say nothing"
        )
    if result["cut"]:
        log(f"!! {result['cut']:,} prompts were longer than the judge's context and lost their start")
    low, high = result["interval"]
    test, bias, swapped = result["sign_test_p"], result["position_bias"], result["swapped"]
    decided = f"{result['wins'] + result['losses']:,} decided rows"
    lines = {
        "win rate": f"{result['win_rate']:.1%}, 95 % interval {low:.1%} to {high:.1%}; ties count half",
        "rows": f"{rows:,}: {result['wins']:,} won, {result['ties']:,} tied ({result['identical']:,} the same text), "
        f"{result['losses']:,} lost",
        "sign test": "nothing was decided" if test is None else f"p = {test:.3g} over {decided}",
        "position bias": "nothing to tell"
        if bias is None
        else f"{bias:.1%} of {swapped['pairs']:,} verdicts turned with the order "
        f"({swapped['for_the_first']:,} twice for the first, {swapped['for_the_second']:,} for the second)",
        "unparsable": f"{result['unparsable']:,} of {result['replies']:,} replies",
        "costs": f"{costs['requests']:,} requests, {costs['tokens_in']:,} tokens read, {costs['tokens_out']:,} written"
        + ("" if costs["cost"] is None else f", cost {costs['cost']:.4f}"),
    }
    print(f"{result['first']} against {result['second']}, judged by {result['judge']['name']}")
    for name, text in lines.items():
        print(f"  {name:<14}{text}")
