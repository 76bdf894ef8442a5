"""A tiny model, marked as a regression so that engines put no sigmoid on it, and a client of a service of it."""

from __future__ import annotations

import pytest

from assay.scorers.local import LocalScorer
from serving import service_of, serving
from tiny import tiny_model, tiny_renderer


@pytest.fixture(scope="module")
def scorer() -> LocalScorer:
    model = tiny_model()
    model.backbone.config.problem_type = "regression"
    return LocalScorer(model, tiny_renderer(), identity="tiny")


@pytest.fixture(scope="module")
def client(scorer):
    with serving(service_of(scorer)) as client:
        yield client
