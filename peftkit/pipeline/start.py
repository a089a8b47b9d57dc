"""The start of a run: the weights of another run, or of an adapter, from which its own go on training."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from peft import PeftConfig, PeftModel

from peftkit.compat.hub import download_adapter
from peftkit.config import RunConfig, UserError, kind_of, refusal, refuse
from peftkit.config.checks.start import WEIGHTS_FILE
from peftkit.config.console import log
from peftkit.config.families import OWN_CLASSIFIERS
from peftkit.config.json_files import read_json
from peftkit.config.quoting import typed
from peftkit.config.source import ADAPTER_FILE, Source
from peftkit.config.start import OTHER_FIELDS, StartFolder, base_of, found_start, vocabulary_of, weights_hash
from peftkit.config.suggestions import listed
from peftkit.methods import check_adapter
from peftkit.methods.start import WeightMismatchError, load_weights, trained_names
from peftkit.models.load import reorder_head
from peftkit.results import run_folder
from peftkit.results.run_result import RunResult

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of init_lora_weights
UNKNOWN_LABEL = "LABEL_"  # transformers' names of labels that nobody named


@dataclass(frozen=True)
class StartRecord:
    """What a result records about its start.

    Args:
        name: of the run's folder, or of the adapter.
        weights: the hash of their files.
        settings: a hash that is equal for starts that are seeds of one entry.
        head: kept, new, or none where the model has none of its own.
    """

    name: str
    task: str | None
    method: str | None
    weights: str
    settings: str
    head: str


@dataclass(frozen=True)
class Start:
    """A start whose base is that of the run; `run` is None for an adapter of another program."""

    folder: StartFolder
    run: RunResult | None

    def load_into(self, model: Any, config: RunConfig, names: list[str] | None) -> StartRecord:
        """Load the weights into a model with the method of the run; log and return what became of the head.

        Args:
            names: labels of the task, None where it has none.

        Raises:
            UserError: the method or its settings differ, or nothing of the start would train.
        """
        refuse((wrong := self._difference(model, config), wrong or ""))
        labels = self._kept_labels(model, config, names)
        try:
            found = load_weights(model, self.folder.weights, with_head=labels is not None)
        except WeightMismatchError as error:
            wrong = f"start={config.start} does not fit method={config.method.name} of model={config.model.name}"
            raise UserError(f"{wrong}: {error}; set model, method and method.config as they were for it") from error
        if trained_names(model).isdisjoint(found.loaded) and not isinstance(model, PeftModel):
            wrong = f"method={config.method.name} trains the head only, and the labels of start= are others"
            raise UserError(refusal(wrong, "~start"))
        if labels and names and labels != names and found.head == "kept":
            reorder_head(model.get_base_model() if isinstance(model, PeftModel) else model, labels, names)
        task, method = (None, None) if self.run is None else (self.run.config.task.name, self.run.config.method.name)
        weights = weights_hash(self.folder)
        record = StartRecord(self.folder.name, task, method, weights, self._settings(weights), found.head)
        origin = f"the adapter {record.name}" if task is None else f"{method} on {task}, {record.name}"
        head = f", head {found.head}" if found.head != "none" else ""
        log(f"   start: {origin}{head}" + (f": {listed(names)}" if names and found.head == "new" else ""))
        if found.left_out:
            log(f"!! of the start, {listed(found.left_out)} have no place in this model")
        return record

    def _difference(self, model: Any, config: RunConfig) -> str | None:
        """Return why the method that was applied to a model is not that of the start, None if it is."""
        start, is_adapter = f"start={config.start}", (self.folder.weights / ADAPTER_FILE).is_file()
        trained = None if self.run is None else self.run.config.method
        wrong = f"{start} was trained with another method" if trained is None else f"{start} is of {trained.name}"
        method = [] if trained is None else [f"method={trained.name}"]
        if is_adapter != isinstance(model, PeftModel):
            return refusal(wrong, *(method or ["method=lora"]))
        if trained is not None and trained.quantization != config.method.quantization:
            return refusal(f"{wrong} over a base in another precision", *method)
        if not is_adapter:
            is_same = trained is not None and trained.config["_target_"] == config.method.config["_target_"]
            return None if is_same else refusal(wrong, *method)
        saved, own = PeftConfig.from_pretrained(str(self.folder.weights)), model.active_peft_config
        if type(saved) is not type(own):
            return refusal(wrong, *(method or [f"method=peft method.config._target_=peft.{type(saved).__name__}"]))
        differing = {each.name: getattr(saved, each.name) for each in fields(own) if _differs(each.name, saved, own)}
        if not differing:
            return None
        other = ", ".join(f"{name}={value}" for name, value in differing.items())
        fix = " ".join(typed(f"method.config.{name}", value) for name, value in differing.items())
        return refusal(f"{start} was trained with {other}, this run has other values", fix)

    def _kept_labels(self, model: Any, config: RunConfig, names: list[str] | None) -> list[str] | None:
        """Return the labels of a head that is kept, in its order, empty for one without labels; None for a new one."""
        settings = _model_settings(self.folder)
        # of another program without a config: a class of transformers, which has no mean pooling
        is_same = settings.get("model_type", model.config.model_type) == model.config.model_type
        is_same = is_same and (bool(settings) or not model.config.model_type.startswith(OWN_CLASSIFIERS))
        if self.run is not None:
            is_same, labels = is_same and self.run.config.task.kind == config.task.kind, self.run.label_names
        else:
            task_type = read_json(self.folder.weights / ADAPTER_FILE, "").get("task_type")
            is_same = is_same and task_type == kind_of(config.task).task_types.get(config.model.family)
            labels = _label_names(settings)
        if not is_same or (labels is None) != (names is None):
            return None
        lower = [{label.lower() for label in each} for each in (labels or [], names or [])]
        return (labels or []) if lower[0] == lower[1] and len(lower[0]) == len(labels or []) else None

    def _settings(self, weights: str) -> str:
        """Return a hash of the settings of the run without its seed; of its own start only those count, too."""
        if self.run is None:
            return weights
        record = self.run.record
        setup, before = dict(record["run"]["setup"]), record["audit"].get("start")
        if before is not None:
            setup["start"] = before["settings"]
        config = RunConfig.from_config({**record["run"]["config"], "seed": 0})
        return run_folder.run_id(config, record["audit"]["sources"], setup)


def open_start(config: RunConfig, source: Source) -> Start | None:
    """Return the start of a run, None without one.

    Args:
        source: of the run's base.

    Raises:
        UserError: its weights are damaged, its base is another one, or its new tokens are missing.
    """
    if config.start is None:
        return None
    folder = found_start(config.start, config.source, download_adapter)
    if (folder.weights / ADAPTER_FILE).is_file():
        check_adapter(folder.weights)
        wrong = f"start={config.start} has no {WEIGHTS_FILE}; use another adapter"
        refuse((not (folder.weights / WEIGHTS_FILE).is_file(), wrong))
    if folder.run is None:
        _check_named_base(config, folder, source)
        return Start(folder, None)
    run = RunResult.finished(folder.run)
    run.check_files(folder.weights.name)
    check_base(run, config, source)
    vocab, trained = config.vocab, run.config.vocab
    if trained is None:
        refuse((vocab, refusal(f"start={config.start} was trained without new tokens", "~vocab")))
    elif vocab not in (trained, own := vocabulary_of(folder, run.config)):
        raise UserError(refusal(f"start={config.start} was trained with new tokens", typed("vocab", own)))
    return Start(folder, run)


def check_base(run: RunResult, config: RunConfig, chosen: Source) -> None:
    """Check that a run was trained from the base of a config.

    Raises:
        UserError: it has another one.
    """
    trained, base = run.config, run.source
    is_same = base.revision == chosen.revision and (base.name == chosen.name or base.kind == chosen.kind == "folder")
    if is_same and trained.model.keep_layers == config.model.keep_layers:
        return
    overrides = [
        f"model={trained.model.name}",
        f"model.checkpoint={trained.model.checkpoint}",
        *([f"model.revision={base.revision}"] if base.kind in ("hub", "cache") else []),
        *(["source=offline"] if base.kind == "offline" else []),
        *([f"model.keep_layers={trained.model.keep_layers}".replace(" ", "")] if trained.model.keep_layers else []),
    ]
    raise UserError(
        f"{run.folder} was trained from {base.name} ({base.revision}), but the base of this command is {chosen.name} "
        f"({chosen.revision}); use {' '.join(overrides)}"
    )


def _check_named_base(config: RunConfig, folder: StartFolder, source: Source) -> None:
    """Compare the base of a run with the one that an adapter of another program names; only the Hub has its content.

    Raises:
        UserError: it is another checkpoint or commit of the Hub, or a substitute.
    """
    name, revision = base_of(folder.weights / ADAPTER_FILE)
    is_commit = len(revision) == 40
    is_other = source.kind in ("hub", "cache") and (source.name != name or (is_commit and revision != source.revision))
    wrong = f"start={config.start} is an adapter of {name} ({revision}), the base of this run is {source.name}"
    fix = f"{typed('model.checkpoint', name)} model.revision={revision}"
    refuse(
        (
            source.substituted_for is not None or source.kind == "offline",
            f"{wrong}; connect to the Hub, or set model.checkpoint= to the folder of its base",
        ),
        (is_other, refusal(wrong, fix)),
    )
    if source.name != name:
        log(f"!! start={config.start} is an adapter of {name}, and is loaded over {source.name}")


def _differs(name: str, saved: Any, own: Any) -> bool:
    """Return whether a field of two configs differs and has to be equal."""
    values = getattr(saved, name, None), getattr(own, name)
    if name == "init_lora_weights":
        values = tuple(each if str(each).startswith(CHANGES_BASE) else None for each in values)  # type: ignore[assignment]
    return name not in OTHER_FIELDS and not name.endswith("dropout") and values[0] != values[1]


def _model_settings(folder: StartFolder) -> dict[str, Any]:
    """Return the config of the model that was trained; empty where it is not beside its adapter."""
    files = (folder.weights / "base" / "config.json", folder.weights / "config.json")
    return next((read_json(file, "use another folder") for file in files if file.is_file()), {})


def _label_names(settings: dict[str, Any]) -> list[str] | None:
    """Return the labels in a model's config, None of one without labels, or with numbers as their names."""
    names = [str(name) for _, name in sorted((settings.get("id2label") or {}).items(), key=lambda pair: int(pair[0]))]
    is_named = len(names) > 1 and not all(name.startswith(UNKNOWN_LABEL) for name in names)
    return names if is_named else None
