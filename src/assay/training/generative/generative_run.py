"""`assay train --kind generative`: from pairs and an instruct model to a model that writes its verdict, measured stage by stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from assay.console import say
from assay.data.sampling import draw_pairs
from assay.data.split import prompt_hashes
from assay.data.tokens.render import choose_template
from assay.errors import DataError
from assay.files import digest, json_digest, write_text
from assay.models.base_checks import position_limit
from assay.models.bases import Base, fetch, resolve_base
from assay.models.device import Compute, library_versions, pick_compute, token_budget
from assay.records import Finding, PreferencePair, Report, Table, extended
from assay.run_files import CARD, GENERATIVE, METRICS, REWARD_FILE, artifact_path, holds_artifact, read_description, write_report
from assay.scorers.baselines import MAX_PAIRS, keep_bag_of_words
from assay.scorers.generative.critics import GenerativeAsked
from assay.scorers.generative.open_generative import generative_entry
from assay.scorers.generative.own_forms import OwnForm, own_form
from assay.training import distributed
from assay.training.generative.examples import Writer
from assay.training.generative.generative_artifact import card_entry, save_generative
from assay.training.generative.kind_words import GenerativeKind, kind_text, read_kind
from assay.training.generative.questions import LeftOut, PairQuestion, questions_of
from assay.training.generative.rated_answers import questions_of_answers
from assay.training.generative.splits import Splits, read_splits
from assay.training.generative.stage_figures import stage_report
from assay.training.generative.stages import Course, Trained, train_stages
from assay.training.generative.trl_fit import FitSettings, require_trl
from assay.training.record import config_content, split_size
from assay.training.settings import LORA_ON_TOP, TRIED_WIDTH, TrainConfig, parse_params

VERDICT_TOKENS = 24  # that a reply may have beside its critique
LEAST_ROOM = 64  # tokens of a critique at inference, where those of the rows are short
ROOM = 1.5  # times the longest critique of the rows
STAGES_FILE = "training"


class _Defaults(NamedTuple):
    epochs: int
    batch_size: int
    learning_rate: float
    why: str


_BY_MODE = {
    "full": _Defaults(2, 16, 2e-4, "for small models that are trained whole"),
    "blocks": _Defaults(2, 16, 5e-4, "more than for a whole model, since the layers below stay as they are"),
    "lora": _Defaults(2, 16, 1e-3, "about five times the rate of a whole model, which adapters bear"),
}


def train_generative(config: TrainConfig) -> Path:
    """Train all stages, save the artifact, and write the training report; returns the artifact's directory.

    Raises ValueError for settings or data that cannot be used, and for an --out that holds a run which was neither to be resumed
    nor overwritten; TrainingError when training has to stop.
    """
    check_flags(config)
    require_trl()
    _refuse_held(config)
    kind, compute = read_kind(config.kind), pick_compute(config.machine.device, config.machine.dtype)
    base, path = _start(config)
    say("base", f"{base.name}{f' ({base.note})' if base.note else ''}")
    tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    if config.template is not None:
        choose_template(tokenizer, config.template)
    hf_config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    length = min(config.max_length, position_limit(hf_config) or config.max_length)
    writer = Writer(tokenizer, max_length=length)
    for change in writer.template_changes:
        say("template", change)
    splits = read_splits(config, kind.good)
    kind, own = _settled(kind, splits)
    questions, left_out = _all_questions(splits, own, kind, seed=config.seed)
    of_what = f"{len(splits.train):,} pairs" + (f" and {len(splits.answers):,} single answers" if splits.answers else "")
    say("questions", f"{len(questions):,} of {of_what}, {kind_text(kind)}; left out: {left_out.summary()}")
    if not questions:
        raise DataError(f"no training pair can be asked about: {left_out.summary()}")
    max_tokens = room_for(kind, own, questions, writer)
    asked = GenerativeAsked(form=own.form.name, critique=own.critique, max_tokens=max_tokens if own.critique else None)
    fit, reasons = fit_settings(config, len(questions), int(hf_config.get_text_config().hidden_size), compute)
    (config.out / METRICS).unlink(missing_ok=True) if not config.machine.resume else None
    course = Course(
        out=config.out,
        base=path,
        kind=kind,
        own=own,
        asked=asked,
        writer=writer,
        pairs=splits.train,
        questions=questions,
        judged=judged_pairs(splits, kind.judged, config.seed),
        fit=replace(fit, identity=json_digest([fit.identity, kind_text(kind), _digest_of(splits)])),
        compute=compute,
        saved_dtype=_stored_dtype(hf_config),
        max_tokens=max_tokens,
        resume=config.machine.resume,
        on_row=_log_to(config.out / METRICS),
    )
    write_text(
        config.out / "config.json",
        json.dumps(config_content(config, settings=_shown(fit), data=splits.data, base=base), indent=1, default=str),
    )
    trained = train_stages(course)
    _save(config, course, trained, splits, base, reasons, left_out)
    return config.out / "artifact"


def check_flags(config: TrainConfig) -> None:
    """Raises ValueError for flags that this kind does not know, naming them."""
    usual = TrainConfig(data=config.data, base=config.base, init_from=config.init_from, out=config.out)
    mode, _ = parse_params(config.params)
    if mode not in ("full", "blocks", "lora"):
        why = "adapters go into all of its blocks" if mode == LORA_ON_TOP else "it has no head"
        raise ValueError(f"--params {config.params} is not for a model that writes: {why}; use full, blocks:K or lora:R")
    unknown = [f"--{name.replace('_', '-')}" for name in ("depth", "overlong") if getattr(config, name) != getattr(usual, name)]
    for group in ("objective", "regularization", "members"):
        given, default = asdict(getattr(config, group)), asdict(getattr(usual, group))
        unknown += [f"--{name.replace('_', '-')}" for name in given if given[name] != default[name] and name != "weight_decay"]
    machine, plain = asdict(config.machine), asdict(usual.machine)
    unknown += [
        f"--{name.replace('_', '-')}" for name in ("quick", "shard", "track", "cache_limit_gb") if machine[name] != plain[name]
    ]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} are of models with a head: leave them out with --kind generative")
    if distributed.is_launched():
        raise ValueError("--kind generative runs in one process: leave torchrun out")


def _refuse_held(config: TrainConfig) -> None:
    """Raises ValueError for an --out that holds a run; with --overwrite its stages are removed."""
    held, machine = config.out / "checkpoints", config.machine
    if machine.overwrite:
        shutil.rmtree(held, ignore_errors=True)
        for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
            (config.out / name).unlink(missing_ok=True)
        return
    if machine.resume:
        return
    ways = "give another --out, or --overwrite to begin anew in it"
    if (config.out / "artifact" / REWARD_FILE).is_file():
        raise ValueError(f"{config.out} holds a finished run, whose model would be lost: {ways}")
    if held.is_dir() and any(held.iterdir()):
        raise ValueError(f"{config.out} holds the checkpoints of an unfinished run: go on with --resume, {ways}")


def _start(config: TrainConfig) -> tuple[Base, Path]:
    """The base, and the directory of its files. Raises ValueError for a start that cannot write."""
    if config.init_from is not None:
        path = artifact_path(config.init_from)
        description = read_description(path)
        if not description.get(GENERATIVE):
            raise ValueError(f"--init-from {config.init_from} is no generative model: start from a language model with --base")
        base = Base(str(path), str(description.get("base_model", path.name)), f"from the generative model {config.init_from.name}")
        return base, path
    base = resolve_base(str(config.base))
    if holds_artifact(base.path):
        raise ValueError(
            f"--base {config.base} is a reward model, whose training prompts would be forgotten: give it as --init-from"
        )
    path = Path(base.path) if Path(base.path).is_dir() else fetch(base.path)
    config_ = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    names: list[str] = list(getattr(config_, "architectures", None) or ())
    if any(name.endswith("Classification") for name in names):
        raise ValueError(f"--base {config.base} is {names[0]}, which cannot write: give a causal language model")
    return base, path


def _all_questions(splits: Splits, own: OwnForm, kind: GenerativeKind, *, seed: int) -> tuple[list[PairQuestion], LeftOut]:
    """The questions about the training pairs, then those about answers that were judged alone; and what was left out."""
    questions, left_out = questions_of(splits.train, own, kind, seed=seed)
    return questions + questions_of_answers(splits.answers, own, left_out, first=len(splits.train)), left_out


def _settled(kind: GenerativeKind, splits: Splits) -> tuple[GenerativeKind, OwnForm]:
    """With a critique where the rows have some and nobody said otherwise. Raises ValueError for critiques that nobody has."""
    probe = own_form(kind.form, critique=True)
    asked = _all_questions(splits, probe, kind, seed=0)[0] if kind.critique is not False else []
    with_one = sum(one.critique is not None for one in asked)
    critique = with_one > 0 if kind.critique is None else kind.critique
    if kind.critique is None:
        why = f"{with_one:,} of {len(asked):,} questions have a critique in their rows" if critique else "no row has a critique"
        say("critique", f"{'written' if critique else 'none: the verdict alone is trained'}; {why}")
    if critique and not with_one:
        raise ValueError(
            f"--kind generative:{kind_text(kind)}: no row has a critique to learn from (columns critique, chosen_critique, "
            "rejected_critique): say direct, or add some"
        )
    return replace(kind, critique=critique), own_form(kind.form, critique=critique)


def room_for(kind: GenerativeKind, own: OwnForm, questions: Sequence[PairQuestion], writer: Writer) -> int:
    """Tokens that a reply may have: 1.5 times the longest of the rows."""
    if not own.critique:
        return VERDICT_TOKENS
    longest = max((len(writer.reply(one.critique)) for one in questions if one.critique is not None), default=0)
    return (kind.tokens or max(LEAST_ROOM, round(ROOM * longest))) + VERDICT_TOKENS


def fit_settings(config: TrainConfig, num_questions: int, width: int, compute: Compute) -> tuple[FitSettings, dict[str, str]]:
    """The settings of a stage: the flags, else defaults with reasons."""
    default = _BY_MODE[parse_params(config.params)[0]]
    reasons = {}
    if config.learning_rate is None:
        reasons["learning_rate"] = f"{default.why}; less for bases wider than {TRIED_WIDTH}"
    if config.epochs is None:
        reasons["epochs"] = "critiques are learnt by heart within a few passes"
    if config.batch_pairs is None:
        reasons["batch_size"] = "questions a step; small sets need the steps (at least 30 an epoch)"
    settings = FitSettings(
        params=config.params,
        epochs=config.epochs or default.epochs,
        batch_size=config.batch_pairs or min(default.batch_size, max(4, num_questions // 30)),
        learning_rate=config.learning_rate or default.learning_rate * min(1.0, TRIED_WIDTH / width),
        weight_decay=0.0 if config.regularization.weight_decay is None else config.regularization.weight_decay,
        seed=config.seed,
        batch_tokens=config.machine.batch_tokens or token_budget(compute.device),
        compute_dtype=compute.dtype,
        device=compute.device.type,
        checkpoint_every=config.machine.checkpoint_every,
        identity=json_digest([config.max_length]),
        gradient_checkpointing=config.machine.gradient_checkpointing,
    )
    return settings, reasons


def judged_pairs(splits: Splits, most: int, seed: int) -> list[PreferencePair]:
    """The held-out pairs that stages are measured on: whole prompts of the test split, else of the calibration one. No ties."""
    held = splits.test or splits.calibration
    drawn = draw_pairs(held, most, seed=seed) if len(held) > most else held  # the pairs that `Opened.own_pairs` draws
    return [pair for pair in drawn if not pair.is_tie]


def _digest_of(splits: Splits) -> str:
    answers = "".join(f"{one.completion.key}{one.is_good}" for one in splits.answers)
    return digest("".join(one.key for pair in splits.train for one in pair.completions()) + answers)


def _stored_dtype(config: Any) -> torch.dtype:
    return config.dtype if isinstance(getattr(config, "dtype", None), torch.dtype) else torch.float32


def _shown(fit: FitSettings) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, torch.dtype) else value for name, value in asdict(fit).items() if name != "identity"
    }


def _log_to(file: Path) -> Callable[[dict[str, Any]], None]:
    def write(row: dict[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")

    return write


def _save(
    config: TrainConfig,
    course: Course,
    trained: Trained,
    splits: Splits,
    base: Base,
    reasons: dict[str, str],
    left_out: LeftOut,
) -> None:
    """The artifact, and eval/training.json."""
    names, hashes = ", ".join(trained.stages), {name: prompt_hashes(pairs) for name, pairs in splits.named.items()}
    hashes["train"] = prompt_hashes(splits.trained)
    told = "".join(f" {note[0].upper()}{note[1:]}." for note in trained.notes)
    told += " Where no critique was right, the verdict was told (a reverse hint)." if course.kind.hint else ""
    settings = {**asdict(course.kind), **_shown(course.fit), "max_tokens": course.max_tokens}
    described = {
        "title": f"{base.name} generative reward model",
        "base_model": base.name,
        "base_note": base.note,
        "base_license": base.license,
        "objective": f"{names} ({kind_text(course.kind)})",
        "params": config.params,
        "data": splits.data,
        "splits": {name: split_size(len(pairs), hashes[name]) for name, pairs in splits.named.items()},
        "num_answers": len(splits.answers),
        "settings": {name: {"value": value, "reason": reasons.get(name, "")} for name, value in settings.items()},
        "stages": dict(trained.facts),
        "trained_in": course.compute.name,
        "dtype": str(course.saved_dtype).removeprefix("torch."),
        "template_changes": list(course.writer.template_changes),
        "versions": library_versions("trl", "peft", "accelerate"),
        GENERATIVE: generative_entry(course.asked),
        CARD: card_entry(course.own, names, told),
    }
    trained_on = np.union1d(hashes["train"], config.run_data.known_prompts)
    path = config.out / "artifact"
    save_generative(trained.path, path, course.own, described, max_length=course.writer.max_length, train_prompts=trained_on)
    if splits.train:  # a bag of words is fitted on differences: answers that were judged alone give none
        keep_bag_of_words(path, splits.train[:MAX_PAIRS])
    for stale in (config.out / "eval").glob("*.json"):
        stale.unlink()
    write_report(config.out, STAGES_FILE, training_report(config, course, trained, left_out))


def training_report(config: TrainConfig, course: Course, trained: Trained, left_out: LeftOut) -> Report:
    """The stages, what each learnt from, and the curve of the loss."""
    name = "the test split" if config.eval_data is None else Path(config.eval_data).name
    report = Report(title="Stages of training")
    if course.judged:
        report = stage_report(trained.figures, course.judged, name=name)
    counts = tuple((stage, what, _told(value)) for stage, facts in trained.facts.items() for what, value in facts.items())
    counts += tuple(("pairs", f"left out: {why}", f"{count:,}") for why, count in left_out.counts.most_common())
    tables = [Table(title="What the stages learnt from", columns=("stage", "what", "how many"), rows=counts)]
    rows = [json.loads(line) for line in (config.out / METRICS).read_text(encoding="utf-8").splitlines()]
    for stage in trained.stages:
        points = tuple((row["epoch"], row["loss"]) for row in rows if row["stage"] == stage)
        tables.append(Table(title=f"loss of {stage}", columns=("epoch", "training"), rows=points, chart="line"))
    notes = [Finding("warn", "a stage without material", float("nan"), float("nan"), note) for note in trained.notes]
    facts = {"kind": kind_text(course.kind), "params": config.params, "base": str(config.base or config.init_from)}
    return extended(report, tables=tables, findings=notes, facts=facts)


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {why}" for why, count in value.items()) or "none"
    return f"{value:,}"
