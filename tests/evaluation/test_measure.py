"""The baseline to beat is that of the model's own training pairs wherever they are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay.evaluation.measure import evaluate_pairs, words_of_training
from assay.evaluation.rivals import BAG_OF_WORDS
from assay.models.saved.artifact import save_artifact
from assay.records import PreferencePair
from assay.run_files import WORDS_FILE
from assay.scorers.base import margins
from assay.scorers.baselines import fit_bag_of_words, keep_bag_of_words
from assay.scorers.opened import NamedPairs, open_scorer
from tiny import tiny_model, tiny_renderer

FILLER = [f"w{i}" for i in range(40)]


def told_pairs(num_pairs: int, first: int) -> list[PreferencePair]:
    """The better answer says "please" in nine of ten pairs."""
    rng = np.random.default_rng(first)
    pairs = []
    for i in range(first, first + num_pairs):
        better, worse = (" ".join(rng.choice(FILLER, 8)) for _ in range(2))
        better, worse = (f"{better} please", worse) if rng.random() < 0.9 else (better, f"{worse} please")
        pairs.append(PreferencePair(prompt=f"q{i}", chosen=better, rejected=worse))
    return pairs


@pytest.fixture
def artifact(tmp_path) -> Path:
    save_artifact(tiny_model(), tiny_renderer(), tmp_path / "model", {"title": "model"})
    return tmp_path / "model"


def test_the_kept_words_are_the_baseline_on_other_people_s_data(artifact):
    trained_on, fresh = told_pairs(300, 0), told_pairs(30, 1000)
    keep_bag_of_words(artifact, trained_on)
    opened = open_scorer(artifact, device="cpu", dtype="float32")
    baseline = evaluate_pairs(opened, NamedPairs(fresh, "fresh", "fresh", False), title="t").baselines[BAG_OF_WORDS]
    assert baseline.value == np.mean(margins(fit_bag_of_words(trained_on), fresh) > 0) > 0.75
    assert baseline.note == "fitted on 300 training pairs of the model, scored on these"


def test_without_them_it_is_cross_validated_and_said_to_be(artifact):
    opened = open_scorer(artifact, device="cpu", dtype="float32")
    assert words_of_training(opened) is None
    result = evaluate_pairs(opened, NamedPairs(told_pairs(30, 1000), "fresh", "fresh", False), title="t")
    assert "the training pairs are not known: 5-fold cross-validated" in result.baselines[BAG_OF_WORDS].note


def test_a_run_keeps_them_and_one_that_did_not_fits_them_where_its_data_lie(trained_run):
    opened = open_scorer(trained_run.path, device="cpu", dtype="float32")
    kept, file = words_of_training(opened), trained_run.path / "artifact" / WORDS_FILE
    pairs = list(opened.own_data.pairs("train"))
    assert kept.num_pairs == len(pairs)
    away = file.rename(file.with_suffix(".away"))
    try:
        np.testing.assert_allclose(margins(words_of_training(opened), pairs), margins(kept, pairs), atol=1e-5)
    finally:
        away.rename(file)


def test_of_a_rule_or_a_url_nothing_is_known():
    assert words_of_training(open_scorer("http://127.0.0.1:1")) is None
