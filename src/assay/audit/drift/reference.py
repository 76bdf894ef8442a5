"""The drift reference: scores, lengths and hidden states of a reward model's own data, kept with the artifact.

Two samples of completions are kept. The bank: answers that the model was trained on; distances are measured from them. The held
rows: answers of the same data that it was not trained on; they say how large distances are when nothing has changed. A model has
memorised its training rows in part, and a distance from the rows that a covariance was fitted to is always too small: compared
with the bank alone, every fresh answer would look new.

Suffixes: N answers, M answers of the bank, H held answers, D hidden size, R rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from assay.errors import ArtifactError
from assay.files import file_sha256, replacing, write_text
from assay.messages import prompt_key
from assay.records import Completion
from assay.scorers.base import HasStates

TENSORS_FILE, NOTE_FILE = "reference.safetensors", "reference.json"
SCHEMA = 1
MOST_ROWS = 2_000  # of either sample
MIN_PROMPTS = 20  # of either sample
NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observed:
    """N answers as a model sees them: score, length in characters, std of the members (NaN for a single model), hidden states
    (N, D) at the reward; prompt and key are int64 digests of the prompt and of the whole. What could not be scored is NaN."""

    score: np.ndarray
    length: np.ndarray
    std: np.ndarray
    states: np.ndarray
    prompt: np.ndarray
    key: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    @property
    def ok(self) -> np.ndarray:
        """(N,) bool: scored, with states that are finite."""
        return np.isfinite(self.score) & np.isfinite(self.states).all(axis=1)

    def distinct(self) -> Observed:
        """The rows that were scored, each text once."""
        first = np.zeros(len(self), dtype=bool)
        first[np.unique(self.key, return_index=True)[1]] = True
        return self.take(self.ok & first)

    def take(self, index: np.ndarray | slice) -> Observed:
        """The rows at `index` (a mask, row numbers or a slice)."""
        return Observed(**{name: getattr(self, name)[index] for name in Observed.__slots__})


class Gaussian(NamedTuple):
    """A normal distribution around 0 with the covariance (1 - shrinkage) x that of M rows + shrinkage x their mean variance.

    basis_RD, values_R: eigenvectors and eigenvalues of the rows' covariance; floor: shrinkage x mean variance.
    """

    basis_RD: np.ndarray
    values_R: np.ndarray
    shrinkage: float
    floor: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """Bank, held-out rows, and where they come from. States of both are standardised: less mean_D, over scale_D (of the bank).

    facts: model (fingerprint without calibration), data, computed in (number format), note.
    """

    bank: Observed
    held: Observed
    mean_D: np.ndarray
    scale_D: np.ndarray
    facts: Mapping[str, str]

    def standardised(self, states_ND: np.ndarray) -> np.ndarray:
        """Hidden states in the units of the bank, rounded as the saved ones are: (N, D) float32."""
        return np.clip((states_ND - self.mean_D) / self.scale_D, -6e4, 6e4).astype(np.float16).astype(np.float32)


def observe(scorer: HasStates, completions: Sequence[Completion]) -> Observed:
    """Score N completions and keep what drift is measured on. Completions without messages count as prompts of their own."""
    rewards, states_ND = scorer.score_with_states(completions)
    bad_N = ~rewards.ok
    length_N = np.array([float(len(completion.response or completion.text or "")) for completion in completions])
    std_N = np.full(len(completions), np.nan) if rewards.std is None else rewards.std.astype(np.float64)
    prompts = [prompt_key(completion.messages) if completion.messages else completion.key for completion in completions]
    return Observed(
        score=rewards.value.astype(np.float64),
        length=np.where(bad_N, np.nan, length_N),
        std=std_N,
        states=states_ND,
        prompt=_numbers(prompts),
        key=_numbers([completion.key for completion in completions]),
    )


def make_reference(bank: Observed, held: Observed, facts: Mapping[str, str]) -> Reference:
    """The reference of two samples, rows that could not be scored left out, at most 2,000 of each.

    Raises ValueError for fewer than 20 prompts in either, and for a prompt that stands in both.
    """
    bank, held = (sample.distinct().take(slice(MOST_ROWS)) for sample in (bank, held))
    for sample, name in ((bank, "bank"), (held, "held-out sample")):
        num_prompts = len(np.unique(sample.prompt))
        if num_prompts < MIN_PROMPTS:
            raise ValueError(f"the {name} of the reference has {num_prompts} scored prompts, {MIN_PROMPTS} are needed")
    if np.isin(held.prompt, bank.prompt).any():
        raise ValueError("a prompt stands in the bank and among the held-out rows: part them by prompt")
    mean_D, scale_D = bank.states.mean(axis=0), bank.states.std(axis=0)
    usual = float(np.median(scale_D)) or 1.0
    scale_D = np.maximum(scale_D, 1e-3 * usual)  # a dimension that never moves in the bank must not decide alone
    empty = Reference(bank=bank, held=held, mean_D=mean_D, scale_D=scale_D, facts=dict(facts))
    parts = {name: _with_states(sample, empty.standardised(sample.states)) for name, sample in (("bank", bank), ("held", held))}
    return Reference(mean_D=mean_D, scale_D=scale_D, facts=dict(facts), **parts)


def fit_gaussian(rows_MD: np.ndarray) -> Gaussian:
    """Covariance of centred rows, shrunk towards a multiple of the identity by as much as lowers the expected squared error most.

    Held as eigenvectors, so that a (D, D) matrix is never made. Source: Ledoit & Wolf (2004), "A well-conditioned estimator for
    large-dimensional covariance matrices", section 3.3.
    """
    rows_MD = np.asarray(rows_MD, np.float64)
    num_rows, width = rows_MD.shape
    _, singular_R, basis_RD = np.linalg.svd(rows_MD, full_matrices=False)
    values_R = singular_R**2 / num_rows
    size = float(values_R.sum()) / width
    spread = float((values_R**2).sum()) / width - size**2  # |S - size x I|^2 / D
    noise = (float((np.square(rows_MD).sum(axis=1) ** 2).sum()) / num_rows - float((values_R**2).sum())) / (num_rows * width)
    shrinkage = min(1.0, max(0.0, noise / spread)) if spread > 0 else 1.0
    kept_R = values_R > 1e-12 * max(float(values_R.max(initial=0.0)), 1e-300)
    return Gaussian(basis_RD[kept_R], values_R[kept_R], shrinkage, max(shrinkage * size, 1e-9 * size, 1e-12))


def mahalanobis(gaussian: Gaussian, rows_ND: np.ndarray) -> np.ndarray:
    """Distance (N,) from 0 in standard deviations of the distribution, over the root of D: about 1 for a row like those fitted.

    Source: Lee et al. (2018), "A Simple Unified Framework for Detecting Out-of-Distribution Samples", eq. 2, with one class.
    """
    rows_ND = np.asarray(rows_ND, np.float64)
    parts_NR = rows_ND @ gaussian.basis_RD.T
    within_N = (parts_NR**2 / ((1 - gaussian.shrinkage) * gaussian.values_R + gaussian.floor)).sum(axis=1)
    outside_N = np.maximum(np.square(rows_ND).sum(axis=1) - np.square(parts_NR).sum(axis=1), 0.0) / gaussian.floor
    return np.sqrt((within_N + outside_N) / rows_ND.shape[1])


def neighbour_distance(bank_MD: np.ndarray, rows_ND: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Distance (N,) of each row, scaled to length 1, from its k-th nearest row of the bank, scaled likewise: in [0, 2].

    Source: Sun et al. (2022), "Out-of-Distribution Detection with Deep Nearest Neighbors", section 3.
    """
    bank_MD, k = _unit(bank_MD), min(k, len(bank_MD))
    found = []
    for start in range(0, len(rows_ND), 1024):
        cosine_NM = _unit(rows_ND[start : start + 1024]) @ bank_MD.T
        found.append(np.sqrt(np.maximum(2 - 2 * np.partition(cosine_NM, len(bank_MD) - k, axis=1)[:, len(bank_MD) - k], 0.0)))
    return np.concatenate(found).astype(np.float64) if found else np.empty(0)


def save_reference(folder: str | Path, reference: Reference) -> None:
    """Write reference.safetensors (states as float16) and reference.json, with the digest of the first, into `folder`."""
    folder = Path(folder)
    tensors = {"mean": reference.mean_D.astype(np.float32), "scale": reference.scale_D.astype(np.float32)}
    for part, sample in (("bank", reference.bank), ("held", reference.held)):
        for name in Observed.__slots__:
            column = getattr(sample, name)
            kept = column.astype({"states": np.float16, "prompt": np.int64, "key": np.int64}.get(name, np.float32))
            tensors[f"{part}.{name}"] = np.ascontiguousarray(kept)
    with replacing(folder / TENSORS_FILE) as work:
        save_file(tensors, work)
    note = {"schema_version": SCHEMA, "digest": file_sha256(folder / TENSORS_FILE)[:32], "facts": dict(reference.facts)}
    note |= {part: {"answers": len(sample), "prompts": len(np.unique(sample.prompt))} for part, sample in _parts(reference)}
    note["quantiles"] = {
        name: {f"{q:g}": float(np.quantile(getattr(reference.held, name), q)) for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)}
        for name in ("score", "length")
    }
    write_text(folder / NOTE_FILE, json.dumps(note, indent=1, ensure_ascii=False))


def load_reference(folder: str | Path) -> Reference | None:
    """The reference of a folder, None when it has none. Raises ArtifactError when it is damaged or of a newer schema."""
    folder = Path(folder)
    if not (folder / NOTE_FILE).is_file():
        return None
    try:
        note = json.loads((folder / NOTE_FILE).read_text(encoding="utf-8"))
        if note["schema_version"] > SCHEMA:
            raise ArtifactError(f"{folder} has schema {note['schema_version']}, this Assay reads {SCHEMA}: upgrade assay-rm")
        if file_sha256(folder / TENSORS_FILE)[:32] != note["digest"]:
            raise ArtifactError(f"{folder / TENSORS_FILE} is not the one that was saved: fit it again (assay audit drift --fit)")
        tensors = load_file(folder / TENSORS_FILE)
        samples = {}
        for part in ("bank", "held"):
            columns = {name: tensors[f"{part}.{name}"] for name in Observed.__slots__}
            floats = {name: column.astype(np.float64) for name, column in columns.items() if name in ("score", "length", "std")}
            samples[part] = Observed(**{**columns, **floats, "states": columns["states"].astype(np.float32)})
        return Reference(mean_D=tensors["mean"], scale_D=tensors["scale"], facts=note["facts"], **samples)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ArtifactError(f"{folder / NOTE_FILE} cannot be read ({error!r}): fit it again (assay audit drift --fit)") from error


def _parts(reference: Reference) -> tuple[tuple[str, Observed], ...]:
    return ("bank", reference.bank), ("held", reference.held)


def _with_states(sample: Observed, states_ND: np.ndarray) -> Observed:
    return replace(sample, states=states_ND)


def _unit(rows_ND: np.ndarray) -> np.ndarray:
    rows_ND = np.asarray(rows_ND, np.float32)
    return rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12)


def _numbers(digests: Sequence[str]) -> np.ndarray:
    return np.array([int(digest[:15], 16) for digest in digests], dtype=np.int64)
