"""What importing loads, and the public surface."""

from __future__ import annotations

import subprocess
import sys

import pytest

import assay


@pytest.mark.parametrize(
    "module",
    [
        "assay",
        "assay.data.candidates",
        "assay.data.pairs",
        "assay.evaluation.compare",
        "assay.audit.overoptimization",
        "assay.stats.metrics",
        "assay.audit.attribution.surface",
        "assay.audit.drift.detect",
        "assay.audit.attribution.openers",
        "assay.report.html",
        "assay.generation.endpoint",
        "assay.generation.generator",
        "assay.scorers.judges.open_judge",
        "assay.scorers.http.remote",
        "assay.serve.app",
        "assay.stats.significance",
        "assay.wire",
        "assay.bulk.score_ray",
    ],
)
def test_importing_loads_no_torch(module):
    script = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'sklearn', 'tokenizers'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_public_surface_is_sorted_and_every_name_resolves():
    assert assay.__all__ == sorted(set(assay.__all__))
    assert all(getattr(assay, name) is not None for name in assay.__all__)
    assert set(assay.__all__) < set(dir(assay))
    assert assay.__version__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'assay' has no attribute 'reward'"):
        assay.reward  # noqa: B018
