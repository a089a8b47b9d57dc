"""Checks of model, method, task and training settings against each other."""

import re
from collections.abc import Iterator

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.values import value_of
from peftkit.config.console import number_of_processes
from peftkit.config.errors import Refusal, refusal
from peftkit.config.families import declared_family, suggested_model
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import DECODER, ENCODER, SEQ2SEQ, generates_text, kind_of
from peftkit.config.run import RunConfig
from peftkit.config.sections import UNLABELED
from peftkit.config.signatures import fields_of


def combination_errors(run: RunConfig) -> list[str]:
    """Return a message for each combination that does not work."""
    training = (_method_errors, _architecture_errors, _loss_errors, _smoothing_errors)
    checks = (
        *(training if JOBS[run.job].trains else ()),
        _model_errors,
        _pair_errors,
        _teacher_errors,
        _training_errors,
        _process_errors,
    )
    return [message for check in checks for message in check(run)]


def _method_errors(run: RunConfig) -> Iterator[str]:
    method, kind, family = run.method, kind_of(run.task), declared_family(run.model.family, run.model.stand_in)
    for refused, choice in (
        (family.name if family.name in method.refuses else family.architecture, f"model={run.model.name}"),
        (kind.refusal_alias or kind.name, f"task={run.task.name}"),
    ):
        # "seq2seq" in `refuses` is the architecture, which the kind of that name needs anyway
        if (reason := method.refuses.get(refused)) and not (choice.startswith("task") and refused == SEQ2SEQ):
            message = f"method={method.name} does not work on {choice}: {reason}"
            yield Refusal(message, *re.findall(r"\b(?:method|model|task)=\w+", reason))
    if not method.traits.trains and not method.traits.prompted and kind.name != "retrieval":
        yield refusal(f"method={method.name} trains nothing and is for task=retrieval only", "method=lora")
    if method.loraplus_lr_ratio is not None and "use_dora" not in (fields_of(str(method.config.get("_target_"))) or {}):
        wrong = f"method.loraplus_lr_ratio: method={method.name} has no matrices A and B of LoRA"
        yield refusal(wrong, "~method.loraplus_lr_ratio", "method=lora")
    if method.config.get("inference_mode"):
        yield refusal(
            "method.config.inference_mode=true freezes the adapter, so that nothing is trained",
            "~method.config.inference_mode",
        )


def _architecture_errors(run: RunConfig) -> Iterator[str]:
    kind, model, method = kind_of(run.task), run.model, run.method
    needs_encoder = model.family == SEQ2SEQ and ENCODER in kind.heads
    return messages_of(
        (
            model.family not in kind.heads,
            refusal(
                f"model={model.name} ({model.family}) has no head for task={run.task.name} ({kind.name})",
                f"model={'t5_encoder' if needs_encoder else suggested_model(next(iter(kind.heads)))}",
            ),
        ),
        (
            kind.name == "language_modeling" and declared_family(model.family, model.stand_in).encoder_of,
            refusal(f"model={model.name} has no decoder to predict the spans", "model=t5"),
        ),
        (
            run.task.packing and DECODER in kind.heads and model.family != DECODER,
            refusal(f"task.packing is for decoders, and model={model.name} is not a decoder", "task.packing=false"),
        ),
        (
            run.task.packing and not method.traits.packable,
            refusal(f"method={method.name} puts a soft prompt before each example", "task.packing=false"),
        ),
        (
            method.traits.lengthens_text and model.family in kind.heads and not kind.task_types.get(model.family),
            refusal(
                f"PEFT has no {method.config['_target_']} for task={run.task.name} with model={model.name}",
                "method=prompt ~method.config._target_",
            ),
        ),
    )


def _loss_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that belongs to the model's own loss where another loss replaces it."""
    distills = run.distill.teacher is not None and not generates_text(run.task)
    loss = "distillation" if distills else kind_of(run.task).loss
    own = f"the model's own loss, which {loss} replaces"
    return messages_of(
        (
            loss and run.method.traits.regularized,
            refusal(f"method={run.method.name} adds a regularizer to {own}", "method=lora"),
        ),
        (
            loss and run.train.get("label_smoothing_factor"),
            refusal(
                f"train.label_smoothing_factor belongs to {own}",
                "~train.label_smoothing_factor" + (" task.loss_type=robust" if loss == "DPO" else ""),
            ),
        ),
    )


def _smoothing_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message where HF's label smoothing, which computes its loss from logits and labels, would be wrong."""
    kind, method = kind_of(run.task), run.method
    if not run.train.get("label_smoothing_factor") or kind.loss or run.distill.teacher is not None:
        return iter(())
    is_number = kind.sequence_label and not kind.has_label_names and run.model.family != SEQ2SEQ
    return messages_of(
        (
            is_number,
            refusal(
                f"train.label_smoothing_factor spreads probability over classes, and task={run.task.name} has numbers",
                "~train.label_smoothing_factor",
            ),
        ),
        (
            kind.name == "question_answering",
            refusal(
                "train.label_smoothing_factor has no effect on the starts and ends of answers",
                "~train.label_smoothing_factor",
            ),
        ),
        (
            method.traits.regularized,
            refusal(f"train.label_smoothing_factor would drop the regularizer of method={method.name}", "method=lora"),
        ),
        (
            method.traits.lengthens_text and not kind.sequence_label and run.model.family != SEQ2SEQ,
            refusal(
                f"train.label_smoothing_factor does not fit {method.config.get('_target_')}, whose virtual tokens have "
                "no labels",
                "method=prompt",
            ),
        ),
    )


def _model_errors(run: RunConfig) -> Iterator[str]:
    model, keeps_layers = run.model, run.model.keep_layers is not None
    family = declared_family(model.family, model.stand_in)
    return messages_of(
        (
            model.family != ENCODER and model.pooling in ("cls", "mean"),
            refusal(
                f"model.pooling={model.pooling} is for encoders, and model={model.name} is not an encoder",
                "model.pooling=null",
                verb="set",
            ),
        ),
        (
            family.encoder_of and model.pooling == "cls",
            refusal(f"model={model.name} has no [CLS] token", "model.pooling=mean", verb="set"),
        ),
        (
            keeps_layers and family.shares_position_biases,
            refusal(
                f"model.keep_layers does not work with model={model.name}, whose first layer computes the position "
                "biases of all layers",
                "~model.keep_layers",
            ),
        ),
        (
            keeps_layers and run.method.traits.adapter,
            refusal(
                f"model.keep_layers changes the base, which a saved adapter of method={run.method.name} could not be "
                "loaded on",
                "method=full",
            ),
        ),
    )


def _pair_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each reason why the two texts of an example cannot be encoded apart."""
    kind, method, key = kind_of(run.task), run.method, f"model.pairs={run.model.pairs}"
    is_bert = run.model.family == ENCODER and not declared_family(ENCODER, run.model.stand_in).encoder_of
    if run.model.pairs is None or not JOBS[run.job].trains:
        return iter(())
    return messages_of(
        (
            not kind.has_sequence_head,
            refusal(f"{key} is for classification and regression, and task={run.task.name} is neither", "~model.pairs"),
        ),
        (
            not is_bert,
            refusal(f"{key} is for a BERT, and model={run.model.name} is none", "model=minilm ~model.checkpoint"),
        ),
        (
            kind.has_sequence_head and len(run.task.text) != 2,
            refusal(f"{key} encodes two texts, and task={run.task.name} has {len(run.task.text)}", "~model.pairs"),
        ),
        (
            method.traits.has_own_model or method.traits.lengthens_text,
            refusal(f"{key}: method={method.name} does not encode a text by itself", "method=lora", "~model.pairs"),
        ),
        (
            run.domains.objective in UNLABELED,
            refusal(
                f"domains.objective={run.domains.objective} reads the states of one text, not those of {key}",
                "~model.pairs",
            ),
        ),
    )


def _teacher_errors(run: RunConfig) -> Iterator[str]:
    distills, is_text = run.distill.teacher is not None, generates_text(run.task)
    return messages_of(
        (
            distills and is_text and run.distill.alpha not in (0.5, 1),
            f"distill.alpha={run.distill.alpha:g}: expected 1 (the teacher's answers only) or 0.5 (both answers to "
            "each example) for generated text",
        ),
        (
            distills and not is_text and not (kind_of(run.task).sequence_label and run.model.family != SEQ2SEQ),
            refusal(
                "distill.teacher is for classification and regression with a head, and for generated text",
                "~distill.teacher",
                *(["model=minilm"] if kind_of(run.task).sequence_label else []),
            ),
        ),
    )


def _process_errors(run: RunConfig) -> Iterator[str]:
    processes = number_of_processes()
    if run.workers not in (None, 1) and processes > 1:
        wrong = f"workers={run.workers} starts a process for each run, but these are {processes} processes of one run"
        yield refusal(wrong, "~workers")


def _training_errors(run: RunConfig) -> Iterator[str]:
    train, stops_early = run.train, run.early_stopping.patience is not None
    evaluates, saves = train.get("eval_strategy"), train.get("save_strategy")
    return messages_of(
        (
            train.get("bf16") and train.get("fp16"),
            refusal(
                "train.bf16 and train.fp16 exclude each other; bf16 is used where the hardware has it",
                "~train.bf16 ~train.fp16",
            ),
        ),
        (
            value_of(train, "accelerator_config.use_seedable_sampler") is False,
            refusal(
                "train.accelerator_config.use_seedable_sampler=false: a resumed run would order its examples anew",
                "~train.accelerator_config",
            ),
        ),
        (
            not stops_early and evaluates not in (None, "no"),
            refusal(
                f"train.eval_strategy={evaluates} needs examples held out of train",
                "early_stopping.patience=3",
                "~train.eval_strategy",
                verb="set",
            ),
        ),
        (
            stops_early and evaluates == "no",
            refusal("early_stopping.patience needs evaluations", "~train.eval_strategy"),
        ),
        (
            stops_early and evaluates != "no" and saves != "best" and (saves or "epoch") != (evaluates or "epoch"),
            refusal(
                "early_stopping.patience keeps the best epoch, so checkpoints are saved at each evaluation",
                f"train.save_strategy={evaluates or 'epoch'}",
                verb="set",
            ),
        ),
    )
