"""The reference: distances equal to their formulas by hand, kept to the bit, and refused when it is not what was saved."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from assay.audit.drift.reference import (
    Observed,
    fit_gaussian,
    load_reference,
    mahalanobis,
    make_reference,
    neighbour_distance,
    save_reference,
)
from assay.errors import ArtifactError
from watched import observed, reference


@pytest.mark.parametrize("num_rows", [8, 200])
def test_shrinkage_is_that_of_ledoit_and_wolf_with_fewer_rows_than_dimensions_and_with_more(num_rows):
    rows = np.random.default_rng(0).normal(size=(num_rows, 30)) * np.linspace(0.5, 2, 30)
    covariance, shrinkage = ledoit_wolf(rows, assume_centered=True)
    gaussian = fit_gaussian(rows)
    assert gaussian.shrinkage == pytest.approx(shrinkage, rel=1e-6)
    asked = np.random.default_rng(1).normal(size=(5, 30))
    expected = np.sqrt(np.einsum("nd,de,ne->n", asked, np.linalg.inv(covariance), asked) / 30)
    np.testing.assert_allclose(mahalanobis(gaussian, asked), expected, rtol=1e-4)


def test_neighbour_distance_by_hand():
    bank = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    found = neighbour_distance(bank, np.array([[5.0, 0.0], [1.0, 1.0]]), k=2)
    np.testing.assert_allclose(found, [np.sqrt(2), np.sqrt(2 - np.sqrt(2))], rtol=1e-5)


def test_a_reference_is_the_same_after_saving(tmp_path):
    kept = reference()
    save_reference(tmp_path / "monitor", kept)
    again = load_reference(tmp_path / "monitor")
    assert again is not None
    assert again.facts == kept.facts
    for part in ("bank", "held"):
        for name in Observed.__slots__:
            np.testing.assert_allclose(getattr(getattr(again, part), name), getattr(getattr(kept, part), name), rtol=1e-6)
    note = json.loads((tmp_path / "monitor/reference.json").read_text())
    assert note["bank"] == {"answers": 160, "prompts": 80}
    assert note["quantiles"]["score"]["0.5"] == pytest.approx(np.median(kept.held.score))
    assert not list(tmp_path.rglob("*.pkl"))
    assert load_reference(tmp_path) is None


def test_a_reference_that_was_altered_is_refused(tmp_path):
    save_reference(tmp_path, reference())
    save_reference(tmp_path / "other", reference(seed=5))
    (tmp_path / "other/reference.safetensors").replace(tmp_path / "reference.safetensors")
    with pytest.raises(ArtifactError, match=r"not the one that was saved.*assay audit drift --fit"):
        load_reference(tmp_path)
    (tmp_path / "reference.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_reference(tmp_path)


def test_too_few_prompts_and_shared_ones_are_refused():
    with pytest.raises(ValueError, match="held-out sample of the reference has 19 scored prompts, 20 are needed"):
        make_reference(observed(30, seed=1), observed(19, seed=2), {})
    with pytest.raises(ValueError, match="part them by prompt"):
        make_reference(observed(30, seed=1), observed(30, seed=1), {})


def test_unscored_rows_and_texts_that_stand_twice_are_left_out():
    twice = observed(30, seed=1)
    twice = twice.take(np.r_[np.arange(60), 0, 1])
    twice.score[5] = np.nan
    kept = make_reference(twice, observed(30, seed=2), {})
    assert len(kept.bank) == 59
    assert len(np.unique(kept.bank.key)) == 59


def test_a_dimension_that_never_moves_and_one_of_great_size_do_not_decide():
    bank, held = observed(60, seed=1), observed(60, seed=2)
    stretch = np.ones(12, np.float32)
    stretch[3] = 1e5
    plain = make_reference(bank, held, {})
    stretched = make_reference(replace(bank, states=bank.states * stretch), replace(held, states=held.states * stretch), {})
    np.testing.assert_allclose(stretched.held.states, plain.held.states, rtol=0.01, atol=0.01)
    bank.states[:, 0] = held.states[:, 0] = 7.0
    assert np.isfinite(make_reference(bank, held, {}).held.states).all()
