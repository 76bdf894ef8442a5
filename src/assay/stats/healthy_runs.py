"""Thresholds of signs from whole healthy runs, with a stated rate of false alarms a run. Pure numpy.

A sign (length, KL, ensemble std, ...) has no null distribution that anyone could write down: a policy that learns must move. What
can be had is how far it moved in healthy runs of the same kind. Of n such runs the k-th largest of their maxima is passed by a
new healthy run with probability at most k / (n + 1): all n + 1 maxima are exchangeable, so that each is as likely as any other to
be among the k largest (Vovk, Gammerman and Shafer 2005, conformal prediction; no distribution is assumed). The rate is for a run
of the same length, seen whole, of the same world; of other runs it says nothing.

A battery of signs has one rate as a whole: half of the runs says in which unit each sign is measured, the other half how large the
largest of all signs becomes in a healthy run.

Suffixes: N runs, S signs, T evaluations of a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class SignThreshold:
    """value: a sign above it alarms. rate: at most this share of healthy runs passes it at any time. runs: that it is from."""

    value: float
    rate: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """Centre and unit of each sign, (S,), and the threshold of the largest sign in these units."""

    names: tuple[str, ...]
    centres: tuple[float, ...]
    units: tuple[float, ...]
    threshold: SignThreshold

    def largest(self, signs_TS: np.ndarray) -> np.ndarray:
        """(T,) the largest sign of each evaluation, in units; NaN signs are passed over, NaN where all are."""
        scaled_TS = (_table(signs_TS, len(self.names)) - np.array(self.centres)) / np.array(self.units)
        return np.where(np.isnan(scaled_TS).all(1), np.nan, np.nanmax(np.where(np.isnan(scaled_TS), -np.inf, scaled_TS), axis=1))

    def alarms(self, signs_TS: np.ndarray) -> np.ndarray:
        """(T,) bool: is any sign above the battery's threshold."""
        return self.largest(signs_TS) > self.threshold.value


def rate_of(k: int, runs: int) -> float:
    """The rate that the k-th largest of so many maxima has: k / (runs + 1)."""
    return k / (runs + 1)


def sign_threshold(maxima_N: np.ndarray, *, rate: float) -> SignThreshold:
    """The lowest threshold whose rate is at most `rate`, from the maxima of healthy runs.

    Raises ValueError where there are too few runs for the rate (1 / rate - 1 are needed), or one without a maximum: leaving it out
    would be a choice by the result.
    """
    maxima_N = np.asarray(maxima_N, dtype=np.float64).reshape(-1)
    if not 0 < rate < 1:
        raise ValueError(f"rate {rate:g} must lie between 0 and 1: it is the share of healthy runs that may alarm")
    if np.isnan(maxima_N).any():
        raise ValueError(
            f"{int(np.isnan(maxima_N).sum())} of {len(maxima_N)} healthy runs have no maximum (NaN): measure the sign in every run"
        )
    k = int(np.floor(rate * (len(maxima_N) + 1) + 1e-9))
    if k < 1:
        raise ValueError(
            f"{len(maxima_N)} healthy runs give no rate below 1 in {len(maxima_N) + 1}: "
            f"make at least {int(np.ceil(1 / rate - 1 - 1e-9))} for {rate:g}, or ask for a higher rate (--rate)"
        )
    return SignThreshold(value=float(np.sort(maxima_N)[-k]), rate=rate_of(k, len(maxima_N)), runs=len(maxima_N))


def battery(names: tuple[str, ...], maxima_NS: np.ndarray, *, rate: float) -> Battery:
    """One threshold for several signs, with one rate for all: see above. The first half of the runs gives centres and units
    (median, and the mean distance from it), the second the threshold.

    maxima_NS: (N, S) the largest value of each sign in each healthy run. Raises ValueError as `sign_threshold`, which sees half.
    """
    maxima_NS = _table(maxima_NS, len(names))
    if np.isnan(maxima_NS).any():
        raise ValueError("a sign has no maximum (NaN) in a healthy run: measure it in every run, or leave the sign out")
    half = len(maxima_NS) // 2
    if half < 2:
        raise ValueError(f"{len(maxima_NS)} healthy runs are too few for a battery: half of them only gives the units")
    first_NS, second_NS = maxima_NS[:half], maxima_NS[half:]
    centres_S = np.median(first_NS, axis=0)
    units_S = np.abs(first_NS - centres_S).mean(0)
    units_S = np.where(units_S > 0, units_S, 1.0)  # a sign that never moved: in its own unit
    largest_N = ((second_NS - centres_S) / units_S).max(1)
    return Battery(
        names=names,
        centres=tuple(map(float, centres_S)),
        units=tuple(map(float, units_S)),
        threshold=sign_threshold(largest_N, rate=rate),
    )


def _table(values: np.ndarray, num_signs: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != num_signs:
        raise ValueError(f"signs are a table of {num_signs} columns, not of shape {values.shape}")
    return values
