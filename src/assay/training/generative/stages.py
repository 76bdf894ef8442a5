"""The stages of training: supervised fine-tuning, rejection sampling (STaR), and DPO of right against wrong critiques.

Each stage starts from the model of the one before, and leaves a whole model under checkpoints/. A stage that is there already, of
the same data and settings, is not done again; inside of a stage training goes on from its own checkpoints.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from assay.console import progress, say
from assay.files import json_digest
from assay.generation.generator import Generator
from assay.generation.ledger import Ledger
from assay.generation.local_model import load_language_model
from assay.models.backbone import attention_for
from assay.models.bases import no_progress_bars, refuse_broken_weights
from assay.models.device import Compute
from assay.models.saved.artifact import weights_digest
from assay.records import PreferencePair
from assay.scorers.generative.critics import GenerativeAsked
from assay.scorers.generative.form_prompts import form_prompt
from assay.scorers.generative.generative import generative_scorer
from assay.scorers.generative.generative_lists import GenerativeLister
from assay.scorers.generative.own_forms import OwnForm
from assay.training.generative.examples import Example, Writer, Written, answer_examples, examples_of, reply_of
from assay.training.generative.generative_artifact import save_stage
from assay.training.generative.kind_words import GenerativeKind, Stage
from assay.training.generative.questions import LeftOut, PairQuestion
from assay.training.generative.sampled_critiques import Sampled, contrasts_of, kept_replies, sample_critiques
from assay.training.generative.stage_figures import StageFigures, judge_pairs
from assay.training.generative.trl_fit import FitSettings, fit_contrasts, fit_replies

DPO_RATE = 0.05  # of the rate of fine-tuning: a preference loss moves a model that writes well already


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All that the stages need. base: directory of the model to start from. questions: of the training pairs; pairs: these. judged:
    the held-out pairs that stages are measured on. max_tokens: of a critique. saved_dtype: of the weights. on_row: takes figures of
    steps."""

    out: Path
    base: Path
    kind: GenerativeKind
    own: OwnForm
    asked: GenerativeAsked
    writer: Writer
    pairs: Sequence[PreferencePair]
    questions: Sequence[PairQuestion]
    judged: Sequence[PreferencePair]
    fit: FitSettings
    compute: Compute
    saved_dtype: torch.dtype
    max_tokens: int
    resume: bool
    on_row: Callable[[dict[str, Any]], None]

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def generator(self, model: Path) -> Generator:
        """The model of a directory, asked through the run's ledger."""
        backend = load_language_model(model, dtype=self.compute.name, device=self.compute.device.type)
        return Generator(backend, ledger=Ledger(self.out / "ledger.sqlite"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What the stages came to. path: directory of the last model. stages: those that were trained. figures: of the base and of each
    stage. facts: counts of each stage. notes: what a person should know, such as a stage that could not be."""

    path: Path
    stages: tuple[Stage, ...]
    figures: tuple[StageFigures, ...]
    facts: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


def train_stages(course: Course) -> Trained:
    """All stages, one after the other; see `Trained`.

    A stage without anything to learn ends the training before it, and is said to. Raises ValueError where that is the first one.
    """
    model, figures, facts, notes = course.base, [_judged(course, "base", course.base)], dict[str, dict[str, Any]](), []
    done: list[Stage] = []
    sampled: Sampled | None = None
    for number, stage in enumerate(course.kind.stages, start=1):
        if stage != "sft" and sampled is None:
            sampled = _sampled(course, model)
            facts["sampling"] = sampled.facts()
        work, counts = _material(course, stage, sampled)
        facts[stage] = counts
        if not work:
            why = _why_nothing(stage, counts)
            if stage == "sft":
                raise ValueError(f"there is nothing to train on: {why}")
            notes.append(f"no stage {stage}: {why}; the model is that of {done[-1]}")
            say(stage, notes[-1])
            break
        model = _trained(course, number, stage, model, work, counts)
        done.append(stage)
        figures.append(_judged(course, stage, model))
    return Trained(path=model, stages=tuple(done), figures=tuple(figures), facts=facts, notes=tuple(notes))


def _why_nothing(stage: Stage, counts: dict[str, Any]) -> str:
    left = ", ".join(f"{count:,} {why}" for why, count in counts.get("left out", {}).items())
    if stage == "dpo":
        return f"no question has both a right and a wrong critique ({left})"
    return f"no critique with the right verdict ({left})" if stage == "star" else f"every question was left out ({left})"


def _material(course: Course, stage: Stage, sampled: Sampled | None) -> tuple[Sequence[Any], dict[str, Any]]:
    """What a stage learns from, and counts of it."""
    left_out, writer, kind = LeftOut(), course.writer, course.kind
    if stage == "dpo":
        assert sampled is not None
        contrasts = contrasts_of(sampled, writer, kind.keep, left_out)
        return contrasts, {"contrasts": len(contrasts), "left out": dict(left_out.counts)}
    own_rows = [one for one in course.questions if one.critique is not None or not course.own.critique]
    written = [Written(one, reply_of(one, course.own)) for one in own_rows]
    num_own, kept = len(written), kept_replies(sampled, kind.keep) if stage == "star" and sampled is not None else []
    examples = examples_of([*written, *kept], writer, left_out, stress=kind.verdict)
    if stage == "star" and not kept:
        return [], {"left out": dict(sampled.unread) if sampled is not None else {}}
    answers = answer_examples(course.pairs, writer, kind.answers, left_out) if kind.answers and examples else []
    counts: dict[str, Any] = {"replies of the rows": num_own, "left out": dict(left_out.counts)}
    counts |= {"replies of the model": len(kept)} if stage == "star" else {}
    counts |= {"right answers": len(answers)} if kind.answers else {}
    return [*examples, *answers], counts


def _sampled(course: Course, model: Path) -> Sampled:
    sampled = sample_critiques(
        course.generator(model),
        course.questions,
        course.own,
        samples=course.kind.samples,
        max_tokens=course.max_tokens,
        seed=course.fit.seed,
        hint=course.kind.hint,
    )
    say("critiques", sampled.summary())
    return sampled


def _trained(course: Course, number: int, stage: Stage, start: Path, work: Sequence[Any], counts: dict[str, Any]) -> Path:
    """The directory of a stage's model, trained where it is not there yet."""
    path = course.checkpoints / f"{number}-{stage}"
    settings = course.fit
    if stage == "dpo":
        settings = replace(settings, learning_rate=settings.learning_rate * DPO_RATE, epochs=1, beta=course.kind.dpo)
    shown = {name: str(value) for name, value in asdict(settings).items() if name not in ("identity", "checkpoint_every")}
    settings = replace(
        settings,
        identity=json_digest([settings.identity, stage, _start_identity(start), shown, json_digest([list(one) for one in work])]),
    )
    if course.resume and _identity_of(path) == settings.identity:
        say(stage, f"is there already: {path}")
        return path
    steps = course.checkpoints / f"{number}-{stage}-steps"
    causal = _loaded(start, course.compute)
    tokens = sum(len(one.tokens) for one in work if isinstance(one, Example))
    said = f"{len(work):,} conversations, {tokens:,} tokens an epoch" if tokens else f"{len(work):,} pairs of critiques"
    say(stage, f"{said}; {settings.epochs} epoch{'s' if settings.epochs > 1 else ''}, learning rate {settings.learning_rate:.2g}")
    fit = fit_contrasts if stage == "dpo" else fit_replies
    num_steps = -(-settings.epochs * len(work) // min(settings.batch_size, settings.epochs * len(work)))
    with progress(stage, num_steps, "steps") as advance:

        def on_row(row: dict[str, Any]) -> None:
            course.on_row({"stage": stage, **row})
            advance(1)

        fit(causal, course.writer.tokenizer, work, settings, checkpoints=steps, resume=course.resume, on_row=on_row)  # type: ignore[operator]
    save_stage(
        causal, course.writer.tokenizer, path, course.saved_dtype, {"identity": settings.identity, "stage": stage, "counts": counts}
    )
    shutil.rmtree(steps, ignore_errors=True)
    return path


def _start_identity(start: Path) -> str:
    """Of a model's weights, by their files."""
    return _identity_of(start) or weights_digest(start)


def _identity_of(path: Path) -> str | None:
    """Digest of what a stage's model was made of; None for another directory."""
    note = path / "stage.json"
    return str(json.loads(note.read_text(encoding="utf-8"))["identity"]) if note.is_file() else None


@no_progress_bars()
def _loaded(path: Path, compute: Compute) -> Any:
    config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    attention = attention_for(config) if compute.device.type == "cpu" else "sdpa"  # ours, where prompts stand once
    causal = AutoModelForCausalLM.from_pretrained(str(path), dtype="auto", trust_remote_code=False, attn_implementation=attention)
    refuse_broken_weights(causal, path.name)
    causal = causal.float() if compute.dtype == torch.float32 else causal
    return causal.to(compute.device)


def _judged(course: Course, stage: str, model: Path) -> StageFigures:
    """The figures of a stage on the held-out pairs, kept beside its model; nothing where there are no such pairs."""
    file = course.checkpoints / f"judged-{stage}.json"
    identity = json_digest([_start_identity(model), [pair.id for pair in course.judged], course.asked])
    if course.resume and file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found.get("identity") == identity:
            return StageFigures.from_json(found["figures"])
    if not course.judged:
        return judge_nothing(stage)
    prompt = form_prompt(course.own.form, critique=course.own.critique)
    scorer = generative_scorer(course.generator(model), prompt, course.asked)
    assert not isinstance(scorer, GenerativeLister), "own forms ask about one answer or two"
    figures = judge_pairs(stage, scorer, course.judged)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"identity": identity, "figures": figures.to_json()}))
    return figures


def judge_nothing(stage: str) -> StageFigures:
    """Figures of no pairs."""
    return StageFigures(
        stage=stage, probabilities=(), agree=(), judgements=0, tokens_read=0, tokens_written=0, seconds=0.0, errors={}
    )
