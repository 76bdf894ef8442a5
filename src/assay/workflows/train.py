"""From preferences and an instruct model to a saved reward model: read, split, render, cache, fit, save, check.

`prepare` does everything up to the loop, so that the demo's cross-validation and a plain run stand on the same ground.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer

from assay.data.pairs import read_pairs
from assay.data.render import Renderer
from assay.data.split import refuse_overlap
from assay.data.table import PairTable, build_table
from assay.errors import DataError
from assay.evaluation.evaluate import gap_finding
from assay.metrics import cluster_bootstrap, is_right
from assay.models.artifact import REWARD_FILE, plain_scores, save_artifact
from assay.models.backbone import Backbone, load_backbone, split_backbone
from assay.models.bases import Base, file_digest, resolve_base
from assay.models.device import Compute, pick_compute
from assay.models.reward_model import RewardModel, new_head
from assay.records import Finding, Metric, PreferencePair, Report, Table
from assay.scorers.load import load
from assay.train.batches import Source, StateSource, TokenSource
from assay.train.cache import build_cache, final_states
from assay.train.checkpoint import latest_checkpoint
from assay.train.loop import fit, reward_pairs
from assay.workflows.rundir import split_name, split_pairs, write_report
from assay.workflows.settings import Derived, TrainConfig, derive, parse_params
from assay.workflows.show import console, progress, say

MONITORED = 1000  # held-out pairs looked at after each epoch


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A run that is ready to be fitted. model: what the loop trains; whole: the same parameters as one model to save."""

    config: TrainConfig
    compute: Compute
    base: Base
    base_digest: str
    renderer: Renderer
    table: PairTable
    source: Source
    model: RewardModel
    whole: RewardModel
    derived: Derived
    data: list[dict[str, Any]]
    saved_dtype: torch.dtype
    split_by_prompt: bool

    @property
    def identity(self) -> str:
        """Digest of data, base and settings: what a checkpoint must share with a run to be resumed by it."""
        loop = asdict(self.derived.loop)
        parts = [self.table.fingerprint, self.base_digest, self.config.params, loop, str(self.compute.dtype)]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def train(config: TrainConfig) -> Path:
    """Train and save; returns the artifact's directory. Calibrating, evaluating and reporting are steps of their own.

    Raises ValueError for settings or data that cannot be used, TrainingError when the run has to stop.
    """
    if not config.resume and is_unfinished(config.out):
        raise ValueError(f"{config.out} holds the checkpoints of an unfinished run: go on with --resume, or give another --out")
    return fit_and_save(prepare(config)).path


def is_unfinished(run: Path) -> bool:
    """Whether a run directory holds checkpoints of a run that has not saved its artifact yet."""
    saved = run / "artifact" / REWARD_FILE
    checkpoints = [path.stat().st_mtime for path in (run / "checkpoints").glob("step-*")]
    return bool(checkpoints) and (not saved.is_file() or max(checkpoints) > saved.stat().st_mtime)


class Saved(NamedTuple):
    """A saved artifact and the largest difference between its scores and plain transformers'."""

    path: Path
    checked: Metric


def fit_and_save(prepared: Prepared, extra: dict[str, Any] | None = None) -> Saved:
    """The loop over the training split, the artifact, the training report. extra: further entries of reward.json."""
    config = prepared.config
    train_rows, heldout_rows = prepared.table.rows("train"), prepared.table.rows("calibration")[:MONITORED]
    loop = prepared.derived.loop
    num_steps = loop.num_steps(len(train_rows))
    if config.resume:
        say("resume", _resume_note(config.out / "checkpoints"))
    with progress("training", num_steps, "steps") as advance:
        reached = 0

        def on_step(row: dict[str, Any]) -> None:
            nonlocal reached
            advance(row["step"] - reached)
            reached = row["step"]

        rows = fit(
            prepared.model,
            prepared.source,
            train_rows,
            loop,
            heldout_rows=heldout_rows,
            run_dir=config.out,
            resume=config.resume,
            identity=prepared.identity,
            on_step=on_step,
        )
    return save_run(prepared, training_report(prepared, rows, train_rows), extra)


def _resume_note(checkpoints: Path) -> str:
    resumed = latest_checkpoint(checkpoints)
    if resumed is None:
        return f"{checkpoints} holds no checkpoint: training from the beginning"
    passed_over = "".join(f"; passed over {problem}" for problem in resumed.state["passed_over"])
    return f"from {resumed.path.name}{passed_over}"


def prepare(
    config: TrainConfig, *, split: Callable[[PreferencePair], str] | None = None, compute: Compute | None = None
) -> Prepared:
    """Everything before the loop, with what was found on the way printed.

    split: other splits than by hash of the prompt. compute: what `pick_compute` gave, when that was asked before.
    """
    torch.manual_seed(config.seed)
    compute = compute or pick_compute(config.device, config.dtype)
    say(
        "computing",
        f"on {compute.device} in {str(compute.dtype).removeprefix('torch.')}: {compute.reason}; {torch.get_num_threads()} threads",
    )
    base = resolve_base(config.base)
    say("base", f"{base.name}{f' ({base.note})' if base.note else ''}")
    renderer = Renderer(
        AutoTokenizer.from_pretrained(base.path, trust_remote_code=False), max_length=config.max_length, overlong=config.overlong
    )
    for change in renderer.template_changes:
        say("template", change)
    config.out.mkdir(parents=True, exist_ok=True)
    table, data = read_table(config, renderer, split)
    num_pairs = len(table.rows("train"))
    backbone = load_backbone(base.path, depth=config.depth)
    derived = derive(config, num_pairs, backbone.hidden_size, compute.device)
    for name, reason in derived.reasons.items():
        say(name.replace("_", " "), f"{getattr(derived.loop, name):g}: {reason}")
    if len(renderer.tokenizer) > backbone.model.get_input_embeddings().num_embeddings:
        backbone.model.resize_token_embeddings(len(renderer.tokenizer))
    saved_dtype, base_digest = next(backbone.parameters()).dtype, _weights_digest(backbone)
    head = new_head(backbone.hidden_size, seed=config.seed)
    whole = RewardModel(backbone, head, compute_dtype=compute.dtype).to(compute.device)
    model, source = _trained_part(config, derived, whole, table, base_digest)
    return Prepared(
        config=config,
        compute=compute,
        base=base,
        base_digest=base_digest,
        renderer=renderer,
        table=table,
        source=source,
        model=model,
        whole=whole,
        derived=derived,
        data=data,
        saved_dtype=saved_dtype,
        split_by_prompt=split is None,
    )


def read_table(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[PairTable, list[dict[str, Any]]]:
    """Read, split and tokenise the data once; what was read, set aside and cut is printed and returned for the record."""
    rule = "hash of the prompt" if split is None else "whole groups"
    split = split or (lambda pair: split_name(config, pair))
    readers = [
        read_pairs(path, form=config.form, limit=config.limit, strict=config.strict, seed=config.seed) for path in config.data
    ]
    path = config.out / "cache" / "tokens.arrow"
    with console.status("reading and tokenising"):
        table, count = build_table(itertools.chain.from_iterable(readers), renderer, path, split=split)
    data = []
    for name, reader in zip(config.data, readers, strict=True):
        say("read", f"{name}: {reader.summary()}")
        entry = {"name": Path(name).name, "num_pairs": reader.problems.num_pairs, "note": reader.summary()}
        data.append(entry | ({"fingerprint": file_digest(Path(name))[:32]} if Path(name).is_file() else {}))
    say("rendered", count.summary())
    sizes = {name: len(table.rows(name)) for name in ("train", "calibration", "test")}
    say("split", ", ".join(f"{name} {size:,}" for name, size in sizes.items()) + f" pairs, by {rule}")
    if not sizes["train"]:
        raise DataError(
            f"no pair is in the training split of {', '.join(config.data)}: give more prompts, or lower --calibration and --test"
        )
    if config.eval_data is not None:
        hashes = np.unique(table.prompt)  # of the calibration split too
        pairs = read_pairs(config.eval_data, form=config.form, strict=config.strict)
        refuse_overlap(hashes, pairs, train_name=", ".join(config.data), eval_name=config.eval_data)
    return table, data


def _trained_part(
    config: TrainConfig, derived: Derived, whole: RewardModel, table: PairTable, base_digest: str
) -> tuple[RewardModel, Source]:
    """The part of the model that the loop trains, in float32, and the pairs as that part takes them."""
    mode, num_blocks = parse_params(config.params)
    budget, share = derived.loop.batch_tokens, whole.backbone.can_branch
    if mode == "full":
        whole.float().requires_grad_(True)
        return whole, TokenSource(table=table, max_tokens=budget, share=share)
    whole.backbone.requires_grad_(False)
    path, limit = config.out / "cache" / "activations.bin", int(config.cache_limit_gb * 1e9)
    identity = f"{table.fingerprint}/{base_digest}/{config.params}/{whole.compute_dtype}"

    def on_start(num_bytes: int, num_states: int) -> None:
        say("cache", f"{num_bytes / 1e6:,.0f} MB on disk for {num_states:,} states of the frozen layers")

    with progress("activations", 2 * len(table), "answers") as advance:
        shared: dict[str, Any] = {"identity": identity, "max_tokens": budget, "limit_bytes": limit}
        shared |= {"on_start": on_start, "on_answers": advance}
        if mode == "head":
            frozen = _computing(whole.backbone, whole.compute_dtype)
            return whole, StateSource(table=table, states_N2D=final_states(frozen, table, path, **shared))
        trunk, top = split_backbone(whole.backbone, num_blocks)
        for part in (top.model.layers, top.model.norm):
            part.float().requires_grad_(True)
        cache = build_cache(_computing(trunk, whole.compute_dtype), table, path, dtype=whole.compute_dtype, **shared)
    model = RewardModel(top, whole.head, compute_dtype=whole.compute_dtype)
    return model, TokenSource(table=table, max_tokens=budget, share=share, cache=cache)


def _weights_digest(backbone: Backbone) -> str:
    """Digest of every weight: a base that was changed in place is another base."""
    digest = hashlib.sha256()
    for name, weight in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _computing(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """A frozen copy in the computing number format; the backbone itself where it already has it."""
    if all(parameter.dtype == dtype for parameter in backbone.parameters()):
        return backbone
    return copy.deepcopy(backbone).to(dtype).eval()


def training_report(prepared: Prepared, rows: list[dict[str, Any]], train_rows: np.ndarray) -> Report:
    """The training curve, and accuracy on the training pairs (a sample of 2,000) against the calibration split."""

    def accuracy(name: str, chosen_rows: np.ndarray) -> Metric:
        table, note = prepared.table, "" if len(chosen_rows) else "no pairs"
        rewards = reward_pairs(prepared.model, prepared.source, chosen_rows)
        right = is_right(rewards[:, 0] - rewards[:, 1], table.preference[chosen_rows])
        told = ~np.isnan(right)
        if not told.any():
            return Metric(name, float("nan"), note=note or "only ties")
        low, high = cluster_bootstrap(right[told], table.prompt[chosen_rows][told], seed=prepared.config.seed)
        return Metric(name, float(right[told].mean()), low, high, int(told.sum()), len(chosen_rows))

    sample = np.random.default_rng(prepared.config.seed).permutation(train_rows)[:2000]
    train_metric = accuracy("accuracy on training pairs", np.sort(sample))
    heldout_metric = accuracy("accuracy on calibration pairs", prepared.table.rows("calibration"))
    names = ("loss", "heldout_loss", "accuracy", "heldout_accuracy")
    curve = [tuple(row.get(name, float("nan")) for name in ("epoch", *names)) for row in rows]
    tables = (
        Table(title="loss", columns=("epoch", "training", "held out"), rows=tuple((r[0], r[1], r[2]) for r in curve), chart="line"),
        Table(
            title="accuracy", columns=("epoch", "training", "held out"), rows=tuple((r[0], r[3], r[4]) for r in curve), chart="line"
        ),
    )
    findings: tuple[Finding, ...] = ()
    if not (np.isnan(train_metric.value) or np.isnan(heldout_metric.value)):
        findings = (gap_finding(train_metric, heldout_metric),)
    facts = {"params": prepared.config.params, "base": prepared.base.name, "training pairs": f"{len(train_rows):,}"}
    return Report(title="Training", metrics=(train_metric, heldout_metric), tables=tables, findings=findings, facts=facts)


def save_run(prepared: Prepared, report: Report, extra: dict[str, Any] | None = None) -> Saved:
    """Write the artifact and the training report, and check that plain transformers gives the same scores."""
    config, loop = prepared.config, prepared.derived.loop
    path = config.out / "artifact"
    settings = {name: {"value": value, "reason": prepared.derived.reasons.get(name, "")} for name, value in asdict(loop).items()}
    description = {
        "title": f"{prepared.base.name} reward model",
        "base_model": prepared.base.name,
        "base_note": prepared.base.note,
        "base_license": prepared.base.license,
        "base_revision": getattr(prepared.whole.backbone.config, "_commit_hash", None),
        "depth": prepared.whole.backbone.num_layers,
        "objective": "Bradley-Terry",
        "params": config.params,
        "data": prepared.data,
        "splits": split_sizes(prepared.table),
        "settings": settings,
        "trained_in": str(prepared.compute.dtype).removeprefix("torch."),
        "versions": {name: version(name) for name in ("assay-rm", "torch", "transformers", "tokenizers", "accelerate", "numpy")}
        | {"python": platform.python_version()},
        **(extra or {}),
    }
    prompts = np.unique(prepared.table.prompt[prepared.table.rows("train")])
    save_artifact(prepared.whole, prepared.renderer, path, description, dtype=prepared.saved_dtype, train_prompts=prompts)
    write_config(prepared)
    for stale in (*(config.out / "eval").glob("*.json"), *(config.out / "cache").glob("activations.*")):
        stale.unlink()  # figures of an earlier model in the same directory; states that no step reads again
    difference, num_checked = reload_check(path, prepared)
    say("reload check", f"plain transformers differs by at most {difference:.1e} on {num_checked} answers, in float32")
    checked = Metric(
        "reload check: largest difference", difference, n_scored=num_checked, n=num_checked, note="plain transformers, float32"
    )
    write_report(config.out, "training", replace(report, metrics=(*report.metrics, checked)))
    return Saved(path, checked)


def write_config(prepared: Prepared) -> None:
    """config.json: what was asked for (files by their whole path), what was derived, what was read."""
    config = asdict(prepared.config)
    config["data"] = [str(Path(name).resolve()) if Path(name).exists() else name for name in prepared.config.data]
    if config["eval_data"] is not None and Path(config["eval_data"]).exists():
        config["eval_data"] = str(Path(config["eval_data"]).resolve())
    content = {
        "config": {**config, "split_by_prompt": prepared.split_by_prompt},
        "loop": asdict(prepared.derived.loop),
        "data": prepared.data,
        "base": prepared.base._asdict(),
    }
    (prepared.config.out / "config.json").write_text(json.dumps(content, indent=1, default=str))


def split_sizes(table: PairTable) -> dict[str, dict[str, Any]]:
    """Number of pairs and fingerprint of the prompts of each split."""
    sizes = {}
    for name in ("train", "calibration", "test"):
        prompts = np.unique(table.prompt[table.rows(name)])
        digest = hashlib.sha256(prompts.tobytes()).hexdigest()[:32]
        sizes[name] = {"num_pairs": len(table.rows(name)), "num_prompts": len(prompts), "fingerprint": digest}
    return sizes


def reload_check(path: Path, prepared: Prepared, num_pairs: int = 8) -> tuple[float, int]:
    """Largest difference between Assay's scores of the saved artifact and plain transformers', in float32, on a few answers."""
    pairs = itertools.islice(split_pairs(prepared.config, "calibration"), num_pairs)
    answers = [completion for pair in pairs for completion in pair.completions()]
    whole = [item.error is None and not item.is_cut for item in prepared.renderer.render(answers)]  # each side cuts in its own way
    completions = list(itertools.compress(answers, whole))
    if not completions:
        return float("nan"), 0
    ours = load(path, dtype="float32", device="cpu").score(completions).value
    theirs = plain_scores(path, completions).numpy()
    return float(np.nanmax(np.abs(ours - theirs))), len(completions)
