"""Signs in /metrics: off unless asked for, thresholds where healthy runs are given, no text of a request."""

from __future__ import annotations

import numpy as np
import pytest

from assay.audit.watch import WatchSettings
from assay.audit.watched import Watched
from assay.serve.app import build_app  # noqa: F401  # the extra is needed
from assay.serve.metrics.gauges import read_gauges
from assay.serve.metrics.prometheus import Counters
from assay.serve.metrics.watching import SERVED, WatchFlags, Watching
from assay.serve.served import Served
from assay.serve.service import EngineSettings, Service, start_engine
from serving import Lengths, answer, wait_for

SMALL = WatchSettings(window=16, start=2, read=8, keep=0, history=4)


def service(watching) -> Service:
    figures, engine = Counters(), EngineSettings(linger_seconds=0.0, watching=watching)
    return Service(
        models={"rm": Served("rm", start_engine("rm", Lengths(), "files", figures, engine))}, figures=figures, engine=engine
    )


def batch(seed: int, longer: int = 0):
    rng = np.random.default_rng(seed)
    return [answer("secret " * int(3 + longer + rng.integers(0, 3)) + str(i), f"question {seed} {i // 4}") for i in range(16)]


def gauges_after(one: Service, batches) -> dict:
    batcher = one.models["rm"].current.batcher
    for completions in batches:
        assert batcher.score(completions).ok.all()
    found = {name: values for name, (_, values) in read_gauges(one).items()}
    batcher.close()
    return found


def value(found, name, **labels):
    return found[name][tuple({"model": "rm", **labels}.items())]


def test_nothing_is_watched_unless_asked_for():
    assert WatchFlags().read() is None
    assert not any("sign" in name or "look" in name for name in gauges_after(service(None), [batch(0)]))


def test_signs_of_the_last_look_are_gauges_and_no_text_is_kept():
    one = service(Watching(SMALL, None))
    watched = one.models["rm"].current.batcher.scorer
    found = gauges_after(one, [batch(seed) for seed in range(3)] + [batch(9, longer=20)])
    assert value(found, "assay_looks_total") == 4
    assert value(found, "assay_sign", sign="longer answers") > 2
    assert value(found, "assay_watch_failing") == 0
    assert value(found, "assay_watch_seconds_total") > 0
    assert "assay_sign_threshold" not in found
    assert isinstance(watched, Watched)
    assert "secret" not in str(watched.watch.saved())
    text = one.figures.text(read_gauges(one))
    assert "secret" not in text
    assert 'assay_sign{model="rm",sign="longer answers"}' in text


def test_thresholds_stand_beside_signs_and_what_passed_is_told(tmp_path):
    path = tmp_path / "healthy.jsonl"
    for run in range(39):
        watched = Watched(Lengths(), settings=SMALL)
        for seed in range(6):
            watched.score(batch(100 * run + seed))
        watched.keep_healthy(path)
    watching = WatchFlags(watch=True, healthy=path).read()
    assert watching.settings.watching == SMALL.watching
    assert (watching.settings.keep, watching.settings.history) == (0, SERVED.history)
    quiet = gauges_after(service(watching), [batch(seed) for seed in range(3)])
    assert value(quiet, "assay_sign_passed", sign="longer answers") == 0
    loud = gauges_after(service(watching), [batch(seed) for seed in range(3)] + [batch(9, longer=20)])
    assert value(loud, "assay_sign_threshold", sign="longer answers") < value(loud, "assay_sign", sign="longer answers")
    assert value(loud, "assay_sign_passed", sign="longer answers") == 1
    assert value(loud, "assay_signs_passed") == 1


def test_a_model_that_gives_other_rewards_moves_its_canaries():
    one = service(Watching(SMALL, None))
    batcher = one.models["rm"].current.batcher
    found = gauges_after_swap(one, batcher)
    assert value(found, "assay_canary_changed") == 1
    assert value(found, "assay_canary_largest_change") > 0


def gauges_after_swap(one, batcher):
    for seed in range(9):
        batcher.score(batch(seed))
    batcher.scorer.scorer.factor = 1.5  # another model behind the same name
    return gauges_after(one, [batch(seed) for seed in range(10, 20)])


def test_flags_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="give --watch too"):
        WatchFlags(healthy=tmp_path / "x").read()
    with pytest.raises(ValueError, match="is no file"):
        WatchFlags(watch=True, healthy=tmp_path / "x").read()


def test_a_promoted_model_is_watched_from_its_own_start():
    one = service(Watching(SMALL, None))
    served = one.models["rm"]
    for seed in range(3):
        served.current.batcher.score(batch(seed))
    served.propose(one.start_engine("rm", Lengths(factor=2.0), "new"))
    served.promote()
    assert served.current.batcher.scorer.watch.num_looks == 0
    wait_for(lambda: served.previous.batcher.scorer.watch.num_looks == 3)
    for loaded in served.loaded():
        loaded.batcher.close()
