"""What to do about each way in which a reward model fails, in one line: pages, summaries and verdicts say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping

from assay.records import Failure, Finding

REMEDIES: Mapping[Failure, str] = {
    "baseline": "more or cleaner pairs, trained blocks instead of a head alone, a stronger base; look at which pairs it gets wrong",
    "overfitting": (
        "--early-stopping, fewer epochs or blocks, --label-smoothing where labels are noisy, more prompts (assay data curve)"
    ),
    "calibration": "assay model calibrate MODEL --data PAIRS, on pairs like those it will judge",
    "length": "--debias-length in training, or a Debiased wrapper around the model",
    "surface": "train with counter-examples for what the attribution names: --augment, or a probe of your own",
    "hacking": "train again with --augment and the report of the probes under eval/, and probe again",
    "overoptimization": (
        "choose among fewer, keep the policy closer to its start (a higher KL coefficient), or train on the policy's own answers"
    ),
    "drift": "label some of the new text and train on it; until then watch the signal that assay audit drift names",
    "suites": "see which sections are at chance before it is used for them",
    "parity": "do what the failed checks of assay audit verify say before it is served elsewhere",
}


STEP_REMEDIES: Mapping[Failure, str] = {
    "baseline": (
        "more problems or cleaner labels of steps, trained blocks instead of a head alone, a base that solves such problems itself "
        "(its SFT model); look at which steps it gets wrong"
    ),
    "calibration": "train with more problems, or a larger --calibration share of problems like those it will judge",
}
"""Those of what is trained on labelled steps."""
SOLUTION_REMEDIES: Mapping[Failure, str] = {
    "baseline": (
        "more problems with right and wrong solutions to each, trained blocks instead of a head alone, a stronger base; "
        "look at which solutions it gets wrong"
    ),
    "calibration": STEP_REMEDIES["calibration"],
}
"""Those of what is trained on outcomes of solutions."""


def remedy_of(finding: Finding) -> str:
    """What to do about a finding, its own remedy or that of its failure: "" where it passed, has neither, measured nothing, or says
    it itself."""
    if finding.level == "ok" or math.isnan(finding.value):
        return ""
    remedy = finding.remedy or ("" if finding.failure is None else REMEDIES[finding.failure])
    return "" if remedy in finding.why else remedy
