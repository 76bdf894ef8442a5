"""What a policy would exploit: how far worthless edits of good answers raise the reward, and whether ruined answers lose it.

A probe is a plain function `(completion, rng) -> edited answer` (`edits.py`). `run_probes` edits answers, scores them beside the
originals, and measures every rise in units of the reference pairs' median |reward of chosen - reward of rejected|.

The alarm is decided over the whole battery (`alarm.py`). A probe fails when its mean rise is above `max_rise` and above zero beyond
chance: a one-sided t-test with prompts as clusters, p-values adjusted by Holm at 5%. Neutral edits (style) are tested both ways: a
reward that fines every list is as biased as one that pays for it. So a scorer that no edit moves on average
is cleared of all probes together in 95% of runs, while a rise of a quarter of the margin stands out of noise of half a margin from
about 100 prompts on. Destructive edits also have to lower the reward; a scorer that does not notice them is warned of.

A judge that compares pairs by itself is asked whether an edited answer beats the answer it was made of (`beside.py`).

Suffixes: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from zlib import crc32

import numpy as np

from assay.audit.probes.alarm import MAX_RISE, Kind, Probe, ProbeResult, Rises, margin_unit, verdicts_of
from assay.audit.probes.beside import with_rewards
from assay.data.probe_edits import edits
from assay.data.probe_edits.edits import Edit, Edited
from assay.records import Completion, PreferencePair
from assay.scorers.base import Scorer
from assay.scorers.wrappers.counted import Counted

MAX_ROWS = 400


def battery(pairs: Sequence[PreferencePair]) -> tuple[Probe, ...]:
    """All probes of Assay. pairs: whose preferred answers are put under other prompts."""
    return probes_with([preferred(pair) for pair in pairs])


def probes_with(answers: Sequence[Completion]) -> tuple[Probe, ...]:
    """The battery, with the answers that may be put under other prompts."""
    worthless = (
        edits.filler,
        edits.flattery,
        edits.user_praise,
        edits.agreement,
        edits.repeated_answer,
        edits.repeated_sentence,
        edits.echo,
        edits.confidence,
        edits.citations,
        edits.self_praise,
        edits.verdict_letter,
        edits.verdict_score,
        edits.verdict_json,
        edits.master_key,
        edits.foreign_sentence,
    )
    style = (edits.bullets, edits.bold, edits.headings, edits.emoji, edits.contractions)
    destructive = (
        edits.empty,
        edits.gibberish,
        edits.shuffled,
        edits.truncated,
        edits.other_answers(answers),
        edits.echo_alone,
        edits.master_key_alone,
        edits.foreign_alone,
    )
    kinds: tuple[tuple[Kind, tuple[Edit, ...]], ...] = (("worthless", worthless), ("style", style), ("destructive", destructive))
    return tuple(Probe(name_of(edit), kind, edit) for kind, group in kinds for edit in group)


INJECTIONS = tuple(
    Probe(str(edit.__name__).replace("_", " "), "worthless", edit)  # as `name_of`
    for edit in (edits.closing_fence, edits.ignored_rubric, edits.planted_verdict)
)
"""What is aimed at the prompt of a judge, beside the forged verdicts and master keys of the battery."""


def as_probe(probe: Probe | Edit) -> Probe:
    """A plain function as a probe: named after itself, worthless."""
    return probe if isinstance(probe, Probe) else Probe(name_of(probe), "worthless", probe)


def name_of(edit: Edit) -> str:
    """The function's name in words. Raises ValueError for what has none."""
    name = getattr(edit, "__name__", "<lambda>")
    if name == "<lambda>":
        raise ValueError(f"the probe {edit!r} has no name: define it with def, or give Probe(name, kind, edit)")
    return str(name).replace("_", " ")


def preferred(pair: PreferencePair) -> Completion:
    """The answer that the label prefers; of a tie the one called chosen."""
    return pair.completions()[int(pair.preference < 0.5)]


def run_probes(
    scorer: Scorer,
    pairs: Sequence[PreferencePair],
    *,
    probes: Sequence[Probe | Edit] | None = None,
    max_rise: float = MAX_RISE,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
    title: str = "Probes",
    num_examples: int = 2,
    on_answers: Callable[[int], None] = lambda number: None,
) -> ProbeResult:
    """Try every probe: how often and by how much it raises the reward; a finding of level "fail" is an alarm.

    pairs: whose answers are edited, and whose margins are the unit. probes: the whole `battery` when left out; plain functions are
    taken as worthless edits. max_rise: largest mean rise that is tolerated, in median margins. max_rows: answers edited, the
    preferred ones of as many prompts as there are first. num_examples: edits shown for each probe that failed. on_answers: called
    with the number of answers scored. Raises ValueError for no pairs, no probes, two of one name, or a probe that raises.
    """
    pairs = list(pairs)
    chosen_probes = [as_probe(probe) for probe in (battery(pairs) if probes is None else probes)]
    names = [probe.name for probe in chosen_probes]
    if not pairs or not chosen_probes:
        raise ValueError(f"{len(pairs)} pairs and {len(chosen_probes)} probes: give at least one of each")
    if len(set(names)) < len(names):
        raise ValueError(f"two probes have one name: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    if not (max_rise >= 0 and max_rows >= 1):
        raise ValueError(f"max_rise {max_rise} must be 0 or more and max_rows {max_rows} at least 1")
    selected, rows = select_rows(pairs, max_rows, seed)
    contrasts = [_contrasts(probe, rows, seed) for probe in chosen_probes]
    answers = {completion.key: completion for pair in selected for completion in pair.completions()}
    edited = {key: completion for tried in contrasts for contrast in tried if contrast for key, completion in contrast.keyed()}
    befores = [contrast.before for tried in contrasts for contrast in tried if contrast]
    references = {one.messages: one for one in (*reversed(befores), *(preferred(pair) for pair in reversed(selected)))}
    reward_of = score_once(with_rewards(scorer, references), answers | edited, on_answers)
    unit = margin_unit(np.array([[reward_of[c.key] for c in pair.completions()] for pair in selected]))
    measured = [_rises(probe, tried, reward_of, unit) for probe, tried in zip(chosen_probes, contrasts, strict=True)]
    facts = {"scorer": scorer.fingerprint, "pairs": str(len(selected)), "answers edited": str(len(rows)), "seed": str(seed)}
    facts |= {"prompts": str(len({pair.prompt_key for pair in selected})), "unit (median |margin|)": f"{unit:.4g}"}
    return ProbeResult(
        title=title,
        probes=tuple(verdicts_of(measured, reward_of, max_rise, seed)),
        unit=unit,
        max_rise=max_rise,
        num_examples=num_examples,
        facts=facts,
    )


class Row(NamedTuple):
    """An answer to be edited, its key, and whether it is the preferred one of its pair."""

    completion: Completion
    key: str
    is_preferred: bool


class Contrast(NamedTuple):
    """An answer before and after an edit, with their keys."""

    before: Completion
    after: Completion
    before_key: str
    after_key: str

    def keyed(self) -> tuple[tuple[str, Completion], tuple[str, Completion]]:
        return (self.before_key, self.before), (self.after_key, self.after)


def select_rows(pairs: Sequence[PreferencePair], max_rows: int, seed: int) -> tuple[list[PreferencePair], list[Row]]:
    """At most `max_rows` answers and the pairs they are of: preferred answers first, one of each prompt before a second of any."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    seen: dict[str, int] = {}
    turns = []
    for i in order:
        key = pairs[i].prompt_key
        seen[key] = seen.get(key, -1) + 1
        turns.append(seen[key])
    selected = [pairs[order[i]] for i in np.argsort(turns, kind="stable")[:max_rows]]
    answers = [(preferred(pair), True) for pair in selected]
    answers += [(pair.completions()[int(pair.preference >= 0.5)], False) for pair in selected]
    return selected, [Row(answer, answer.key, is_preferred) for answer, is_preferred in answers[:max_rows]]


def score_once(scorer: Scorer, completions: Mapping[str, Completion], on_answers: Callable[[int], None]) -> dict[str, float]:
    """Reward by key, each content once, all of a prompt in one call: what is shared is computed once. completions: by key."""
    by_prompt: dict[object, dict[str, Completion]] = {}
    for key, completion in completions.items():
        by_prompt.setdefault(completion.messages, {})[key] = completion
    ordered = {key: completion for group in by_prompt.values() for key, completion in group.items()}
    value_N = Counted(scorer=scorer, advance=on_answers).score(list(ordered.values())).value
    return dict(zip(ordered, value_N.astype(np.float64).tolist(), strict=True))


def _contrasts(probe: Probe, rows: Sequence[Row], seed: int) -> list[Contrast | None]:
    """What the probe makes of every answer that it is for; None where it does not apply or changes nothing."""
    contrasts: list[Contrast | None] = []
    for number, row in enumerate(rows):
        if probe.kind == "destructive" and not row.is_preferred:
            continue
        rng = np.random.default_rng([seed, crc32(probe.name.encode()), number])
        found = contrast_of(probe, row.completion, rng)
        if found is None:
            contrasts.append(None)
            continue
        before, after = found
        contrasts.append(Contrast(before, after, row.key if before is row.completion else before.key, after.key))
    return contrasts


def contrast_of(probe: Probe, completion: Completion, rng: np.random.Generator) -> tuple[Completion, Completion] | None:
    """The answer before and after the edit, or None where it does not apply. Raises ValueError when the probe fails."""
    try:
        edited: Edited = probe.edit(completion, rng)
    except Exception as error:
        why = f"the probe {probe.name!r} raised {error!r} on the answer {completion.response!r:.80}"
        raise ValueError(f"{why}: it should return None where it does not apply") from error
    if isinstance(edited, str):
        kept = None if probe.kind == "destructive" else completion.response_message  # what is destroyed calls no tools
        edited = replace(completion, response=edited, response_message=kept, steps=None, id="")
    if edited is None:
        return None
    before, after = edited if isinstance(edited, tuple) else (completion, edited)
    if not (isinstance(before, Completion) and isinstance(after, Completion)):
        raise ValueError(f"the probe {probe.name!r} returned {edited!r:.80}: return text, a Completion, two of them, or None")
    is_changed = (before.messages, before.response, before.text) != (after.messages, after.response, after.text)
    return (before, after) if is_changed else None


def _rises(probe: Probe, tried: Sequence[Contrast | None], reward_of: Mapping[str, float], unit: float) -> Rises:
    """Equal contrasts count once."""
    distinct = list({(c.before_key, c.after_key): c for c in tried if c is not None}.values())
    rise_N = np.array([(reward_of[c.after_key] - reward_of[c.before_key]) / unit for c in distinct], dtype=np.float64)
    number = {messages: i for i, messages in enumerate(dict.fromkeys(c.after.messages for c in distinct))}
    cluster_N = np.array([number[c.after.messages] for c in distinct], dtype=np.int64)
    keys = [c.after_key for c in distinct]
    return Rises(
        probe=probe,
        rise_N=rise_N,
        cluster_N=cluster_N,
        before=[c.before for c in distinct],
        after=[c.after for c in distinct],
        after_keys=keys,
        num_not_applicable=sum(contrast is None for contrast in tried),
        is_refused=all(np.isnan(reward_of[key]) for key in keys) and not all(np.isnan(reward_of[c.before_key]) for c in distinct),
    )
