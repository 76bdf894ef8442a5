"""The drift reference of an artifact: made from its own data, kept under monitor/, and read back.

`assay train` keeps one, and so does `assay audit drift --fit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from assay.audit.drift.reference import (
    MIN_PROMPTS,
    MOST_ROWS,
    Observed,
    Reference,
    load_reference,
    make_reference,
    observe,
    save_reference,
)
from assay.audit.drift.samples import MOST_READ, draw, prompt_of, read_sample
from assay.console import progress, say
from assay.data.raw.columns import NO_NAMES
from assay.data.raw.rows import slug
from assay.data.sampling import draw_prompts
from assay.data.split import is_among
from assay.records import Completion, Dtype, PreferencePair
from assay.run_files import ENSEMBLE, MONITOR, read_description, uncalibrated_fingerprint
from assay.scorers.base import HasStates, Scorer, capability
from assay.scorers.opened import Opened, open_scorer
from assay.scorers.wrappers.counted import AT_ONCE

COMPUTED_IN = "computed in"  # fact of a reference: the number format of its states
NEEDS_STATES = "drift (it compares hidden states)"


def reference_for(opened: Opened) -> Reference:
    """The reference that was kept with a model. Raises ValueError where there is none, and for one of other weights."""
    artifact = opened.need_artifact(NEEDS_STATES)
    reference = load_reference(artifact / MONITOR)
    fix = "make one: assay audit drift MODEL --fit --data SET, with the data that it was trained on"
    if reference is None:
        raise ValueError(f"{artifact} has no reference to compare with: {fix}")
    if reference.facts.get("model") != uncalibrated_fingerprint(artifact):
        raise ValueError(f"the reference of {artifact} was made with other weights: {fix}")
    return reference


def states_scorer(opened: Opened, reference: Reference | None = None, *, loaded: Scorer | None = None) -> HasStates:
    """The scorer whose hidden states are compared, in the number format of the reference where the caller left it open; of an
    ensemble of whole models the first member.

    loaded: the model's scorer where it was loaded before; it is used when its format is the one. Raises ValueError for a URL or a
    rule, which have no states.
    """
    artifact = opened.need_artifact(NEEDS_STATES)
    wanted = "auto" if reference is None else reference.facts.get(COMPUTED_IN, "auto")
    dtype = cast(Dtype, wanted) if opened.dtype == "auto" else opened.dtype
    loaded = opened.loaded if loaded is None else loaded
    found = None if loaded is None else capability(loaded, HasStates)
    if found is not None and dtype in ("auto", found.computed_in):
        return found
    if read_description(artifact).get(ENSEMBLE, {}).get("form") == "models":
        from assay.models.saved.ensemble_files import member_paths  # imports torch

        artifact = member_paths(artifact)[0]
    scorer = capability(replace(opened, artifact=artifact, dtype=dtype, loaded=None).raw, HasStates)
    if scorer is None:
        raise ValueError(f"{opened.label} gives no hidden states, which drift compares")
    return scorer


def fit_reference(
    opened: Opened,
    sets: Sequence[str],
    *,
    limit: int,
    form: str | None = None,
    names: Mapping[str, str] = NO_NAMES,
    seed: int = 0,
) -> Reference:
    """Make the reference of a model from sets of its own data, and keep it.

    The bank is of prompts that it was trained on, the held-out rows of others, where the sets have both; else the prompts are
    split at random.
    """
    samples = [read_sample(name, limit, form=form, names=names, seed=seed) for name in sets]
    completions = [completion for sample in samples for completion in sample.completions]
    trained_on = opened.provenance.trained_on
    pairs = {completion.messages: PreferencePair(prompt=completion.messages, chosen="", rejected="") for completion in completions}
    seen = {messages for messages, pair in pairs.items() if trained_on is not None and is_among(trained_on, pair)}
    note = "bank: prompts that it was trained on; held out: others"
    if not MIN_PROMPTS <= len(seen) <= len(pairs) - MIN_PROMPTS:
        known = "all prompts were trained on" if seen else "none of the prompts is known to be trained on"
        note = f"{known}: split at random, so that text that the model has not seen may look a little new" if seen else known
        messages = list(pairs)
        order = np.random.default_rng(seed).permutation(len(messages))
        seen = {messages[i] for i in order[: len(order) // 2]}
    bank = draw([completion for completion in completions if completion.messages in seen], MOST_ROWS, seed)
    held = draw([completion for completion in completions if completion.messages not in seen], MOST_ROWS, seed)
    return keep_reference(opened, bank, held, data=", ".join(map(slug, sets)), note=note)


def reference_of_run(
    trained_on: Iterable[Completion],
    calibrated_on: Iterable[Completion],
    artifact: Path,
    *,
    num_answers: int,
    seed: int,
    dtype: str,
    device: str,
    loaded: Scorer | None = None,
) -> None:
    """Keep the reference of a run that was just saved: a bank of its training answers, held-out rows of its calibration split.

    num_answers: of both samples together; 0 keeps none. loaded: the saved model's scorer where it is loaded already. Says why when
    there are too few prompts for one.
    """
    each = min(num_answers // 2, MOST_ROWS)
    if not each:
        return
    bank, held = (
        draw(draw_prompts(answers, 2 * MOST_READ, seed=seed, prompt_of=prompt_of).items, each, seed)
        for answers in (trained_on, calibrated_on)
    )
    fewest = min(len({completion.messages for completion in sample}) for sample in (bank, held))
    if fewest < MIN_PROMPTS:
        needed = f"{MIN_PROMPTS} are needed for assay audit drift"
        say("no reference", f"{fewest} prompts of the training or the calibration split: {needed}")
        return
    note = "bank: training split; held out: calibration split"
    try:
        opened = replace(open_scorer(artifact, dtype=cast(Dtype, dtype), device=device), loaded=loaded)
        keep_reference(opened, bank, held, data="its own", note=note)
    except ValueError as error:  # too few of them could be scored
        say("no reference", str(error))


def keep_reference(opened: Opened, bank: Sequence[Completion], held: Sequence[Completion], *, data: str, note: str) -> Reference:
    """Score both samples, and keep the reference under monitor/ of the artifact. Raises as `make_reference`."""
    artifact, scorer = opened.need_artifact("a drift reference"), states_scorer(opened)
    facts = {
        "model": uncalibrated_fingerprint(artifact),
        "data": data,
        COMPUTED_IN: scorer.computed_in,
        "note": note,
    }
    reference = make_reference(observe_all(scorer, bank, "reference"), observe_all(scorer, held, "held out"), facts)
    save_reference(artifact / MONITOR, reference)
    sizes = f"{len(reference.bank):,} answers in the bank, {len(reference.held):,} held out"
    say("reference", f"{sizes} -> {artifact / MONITOR}")
    return reference


def observe_all(scorer: HasStates, completions: Sequence[Completion], label: str) -> Observed:
    """`observe`, a chunk at a time with a progress bar, each text scored once. Raises ValueError for no completions."""
    unique = list({completion.key: completion for completion in completions}.values())
    if not unique:
        raise ValueError(f"{label} holds no answer")
    parts = []
    with progress(label, len(unique), "answers") as advance:
        for start in range(0, len(unique), AT_ONCE):
            parts.append(observe(scorer, unique[start : start + AT_ONCE]))
            advance(len(parts[-1]))
    place = {completion.key: i for i, completion in enumerate(unique)}
    whole = Observed(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Observed.__slots__})
    return whole.take(np.array([place[completion.key] for completion in completions]))
