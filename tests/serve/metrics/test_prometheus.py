"""Prometheus text by hand."""

from __future__ import annotations

import math

from assay.serve.metrics.prometheus import Counters, RewardWindow


def test_counters_and_histograms_are_written_as_prometheus_reads_them():
    figures = Counters()
    figures.count("asked_total", "Asked.", model="a", kind="x")
    figures.count("asked_total", "Asked.", 2, model="a", kind="x")
    figures.count("asked_total", "Asked.", model='b"\\\n', kind="x")
    for value in (0.5, 1.0, 7.0):
        figures.observe("seconds", "Time.", value, (1.0, 5.0))
    assert figures.text({"size": ("Now.", {(): 1.5, (("model", "a"),): math.nan})}).splitlines() == [
        "# HELP asked_total Asked.",
        "# TYPE asked_total counter",
        'asked_total{model="a",kind="x"} 3',
        'asked_total{model="b\\"\\\\\\n",kind="x"} 1',
        "# HELP seconds Time.",
        "# TYPE seconds histogram",
        'seconds_bucket{le="1"} 2',
        'seconds_bucket{le="5"} 2',
        'seconds_bucket{le="+Inf"} 3',
        "seconds_sum 8.5",
        "seconds_count 3",
        "# HELP size Now.",
        "# TYPE size gauge",
        "size 1.5",
        'size{model="a"} NaN',
    ]


def test_the_window_of_rewards_forgets_and_counts_what_has_none():
    window = RewardWindow(4)
    empty = window.summary()
    assert (empty["n"], empty["n_scored"]) == (0, 0)
    assert all(math.isnan(empty[name]) for name in ("mean", "std", "nan_rate"))
    window.add([100.0, 1.0, None, 3.0, 5.0])
    assert window.summary() == {"mean": 3.0, "std": 2.0, "nan_rate": 0.25, "n": 4.0, "n_scored": 3.0}
    window.add([None, None, None])
    assert math.isnan(window.summary()["std"]), "one reward has no spread"
