"""Checks of model, method, task and training settings against each other."""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.config.jobs import JOBS
from peftkit.config.kinds import DECODER, ENCODER, SEQ2SEQ, generates_text, kind_of
from peftkit.config.run import RunConfig

MODELS = {ENCODER: "minilm", DECODER: "gpt2", SEQ2SEQ: "t5"}  # one to suggest of each architecture


def combination_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each combination that does not work."""
    if JOBS[run.job].trains:
        yield from _method_errors(run)
        yield from _architecture_errors(run)
        yield from _loss_errors(run)
    yield from _model_errors(run)
    yield from _teacher_errors(run)
    yield from _training_errors(run)


def _method_errors(run: RunConfig) -> Iterator[str]:
    method, kind = run.method, kind_of(run.task)
    for refused, choice in (
        (run.model.family, f"model={run.model.name}"),
        (kind.refused_as or kind.name, f"task={run.task.name}"),
    ):
        # "seq2seq" in `refuses` is the architecture, which the kind of that name needs anyway
        if (reason := method.refuses.get(refused)) and not (choice.startswith("task") and refused == SEQ2SEQ):
            yield f"method={method.name} does not work on {choice}: {reason}"
    if not method.traits.trains and not method.traits.prompted and kind.name != "retrieval":
        yield f"method={method.name} trains nothing and is for task=retrieval only; use method=lora"


def _architecture_errors(run: RunConfig) -> Iterator[str]:
    kind, model = kind_of(run.task), run.model
    if model.family not in kind.heads:
        other = "t5_encoder" if model.family == SEQ2SEQ and ENCODER in kind.heads else MODELS[next(iter(kind.heads))]
        yield (
            f"model={model.name} ({model.family}) has no head for task={run.task.name} ({kind.name}); use model={other}"
        )
    if kind.name == "language_modeling" and _is_t5_encoder(run):
        yield f"model={model.name} has no decoder to fill in spans with; use model=t5"
    if run.task.packing and DECODER in kind.heads and model.family != DECODER:
        yield f"task.packing is for decoders, model={model.name} is none; use task.packing=false"
    if run.task.packing and not run.method.traits.packable:
        yield f"method={run.method.name} puts a soft prompt before each example; use task.packing=false"


def _loss_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that belongs to the model's own loss where another loss replaces it."""
    distills = run.distill.teacher is not None and not generates_text(run.task)
    if (loss := "distillation" if distills else kind_of(run.task).loss) is None:
        return
    if run.method.traits.regularized:
        name = f"method={run.method.name}"
        yield f"{name} adds a regularizer to the model's own loss, which {loss} replaces; use method=lora"
    if run.train.get("label_smoothing_factor"):
        other = "use task.loss_type=robust" if loss == "DPO" else "drop it"
        yield f"train.label_smoothing_factor belongs to the model's own loss, which {loss} replaces; {other}"


def _model_errors(run: RunConfig) -> Iterator[str]:
    model = run.model
    if model.family != ENCODER and model.pooling in ("cls", "mean"):
        yield f"model.pooling={model.pooling} is for encoders, model={model.name} is none; set model.pooling=null"
    if _is_t5_encoder(run) and model.pooling == "cls":
        yield f"model={model.name} has no [CLS] token; set model.pooling=mean"
    if model.keep_layers is not None and model.stand_in == "t5-mini":
        yield (
            f"model.keep_layers does not work with model={model.name}, whose first layer computes the position biases "
            "of all layers; drop it"
        )
    if model.keep_layers is not None and run.method.traits.adapter:
        yield (
            f"model.keep_layers changes the base, which a saved adapter of method={run.method.name} could not be "
            "loaded over; use method=full"
        )


def _is_t5_encoder(run: RunConfig) -> bool:
    return run.model.stand_in == "t5-mini" and run.model.family == ENCODER


def _teacher_errors(run: RunConfig) -> Iterator[str]:
    if run.distill.teacher is None:
        return
    if generates_text(run.task):
        if run.distill.alpha not in (0.5, 1):
            yield (
                f"distill.alpha={run.distill.alpha:g}: expected 1 (the teacher's answers only) or 0.5 (both answers to "
                "each example) for generated text"
            )
    elif not kind_of(run.task).sequence_label or run.model.family == SEQ2SEQ:
        yield (
            "distill.teacher is for classification and regression with a head, and for generated text; "
            "drop it, or use model=minilm"
        )


def _training_errors(run: RunConfig) -> Iterator[str]:
    train, patience = run.train, run.early_stopping.patience
    if run.trial and run.search.lr_multipliers is not None:
        yield "trial=true trains with one learning rate and searches none; drop trial=true or search.lr_multipliers"
    if train.get("bf16") and train.get("fp16"):
        yield "train.bf16 and train.fp16 exclude each other; drop both: bf16 is used where the hardware has it"
    evaluates, saves = train.get("eval_strategy"), train.get("save_strategy")
    if patience is None and evaluates not in (None, "no"):
        yield (
            f"train.eval_strategy={evaluates} needs examples held out of train; "
            "set early_stopping.patience=3, or drop it"
        )
    elif patience is not None and evaluates == "no":
        yield "early_stopping.patience needs evaluations; drop train.eval_strategy=no"
    elif patience is not None and saves != "best" and (saves or "epoch") != (evaluates or "epoch"):
        yield (
            "early_stopping.patience keeps the best epoch, so checkpoints are saved at each evaluation; "
            f"set train.save_strategy={evaluates or 'epoch'}"
        )
