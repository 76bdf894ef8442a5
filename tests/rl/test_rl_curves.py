"""Curves of runs: what is said where gold falls, where it does not, and where there is none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from assay.audit.best_of_n import best_of_n_curve, read_best_of_n
from assay.cli import main
from assay.errors import DataError
from assay.rl.evaluations import read_evaluations
from assay.rl.rl_curves import rl_curves
from assay.wire import report_from_json


def a_run(path, gold, *, prompts: int = 40, seed: int = 0):
    """A run whose reward rises with the steps, and whose gold is a function of the step."""
    rng = np.random.default_rng(seed)
    path.mkdir()
    lines = []
    for i in range(8):
        rows = {"kl": rng.normal(1.5 * i, 0.1, prompts), "reward": rng.normal(0.5 * i, 0.5, prompts)}
        rows["gold"] = [None] * prompts if gold is None else rng.normal(gold(i), 0.3, prompts)
        lines.append({"step": 10 * i - 1, **{name: list(one) for name, one in rows.items()}})
    (path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_gold_that_falls_while_the_reward_rises_is_found_and_a_rise_is_not(tmp_path):
    falls = read_evaluations(a_run(tmp_path / "falls", lambda i: 0.5 * i - 0.1 * i * i))
    rises = read_evaluations(a_run(tmp_path / "rises", lambda i: 0.2 * i))
    result = rl_curves({"falls": falls, "rises": rises})
    failed = [one for one in result.findings if one.level == "fail"]
    assert [one.name for one in failed] == ["falls: gold falls while the reward rises"]
    assert "1 of 2 runs" in result.page.lead
    assert result.page.metric("rises: gain in gold at the end").value == pytest.approx(1.4, abs=0.2)


def test_a_run_without_gold_says_so_and_best_of_n_is_drawn_beside(tmp_path):
    found = read_evaluations(a_run(tmp_path / "run", None))
    rng = np.random.default_rng(0)
    proxy = [rng.normal(size=8) for _ in range(10)]
    beside = best_of_n_curve(proxy, [one + 1.0 for one in proxy], [1, 2, 4, 8])
    result = rl_curves({"run": found}, best_of_n=beside)
    assert "no gold" in result.findings[0].why
    assert result.page.tables[-1].rows[0] == (0.0, 0.0)
    assert not result.fits


def test_the_command_keeps_a_page_and_refuses_what_is_no_run(tmp_path, capsys):
    path = a_run(tmp_path / "falls", lambda i: 0.5 * i - 0.1 * i * i)
    assert main(["rl", "curves", str(path)]) == 0
    assert "gold fell while the reward rose" in capsys.readouterr().out
    assert (path / "curves.html").is_file()
    assert main(["rl", "curves", str(tmp_path)]) == 2
    assert "has no evaluations" in capsys.readouterr().err


def best_of_n_report(path, capsys, *, num_prompts: int = 40):
    """What the command keeps of candidates whose gold is the number of letters, by a rule that pays for them too."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(num_prompts):
        lengths = rng.integers(1, 30, 8)
        rows.append({"prompt": f"p{i}", "candidates": ["a" * int(n) for n in lengths], "gold": [float(n) for n in lengths]})
    path.mkdir()
    (path / "cands.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "my_letters.py").write_text("def letters(completions):\n    return [2.0 * len(one.response) for one in completions]\n")
    data = ["--data", str(path / "cands.jsonl"), "--out", str(path)]
    assert main(["audit", "best-of-n", "rule:my_letters:letters", *data]) == 0
    capsys.readouterr()
    return path / "eval" / "best-of-n-cands.json"


def test_the_command_draws_best_of_n_and_the_runs_in_one_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "best"))
    kept = best_of_n_report(tmp_path / "best", capsys)
    found = read_best_of_n(kept)
    assert found.reward == pytest.approx(2 * (found.gold - found.gold[0]))  # each in its own unit
    path = a_run(tmp_path / "run", lambda i: 0.2 * i)
    assert main(["rl", "curves", str(path), "--best-of-n", str(kept)]) == 0
    tables = {table.title: table for table in report_from_json((path / "eval" / "curves.json").read_text()).tables}
    for what in ("gold", "reward"):
        table = tables[f"{what}: runs and best-of-n"]
        assert table.columns == ("square root of KL", "run", "best-of-n")
        assert table.chart == "curves"
        assert len(table.rows) == len(tables["run"].rows) + len(found.sizes)
        at, run, best = np.array(table.rows, dtype=float).T
        assert (np.isnan(run) ^ np.isnan(best)).all(), "each point is of one of them, and was measured"
        whole = np.array(tables["run"].rows, dtype=float)
        column = tables["run"].columns.index(what)
        assert np.array_equal(np.stack([at, run])[:, ~np.isnan(run)], whole[:, [0, column]].T)
        assert np.array_equal(at[~np.isnan(best)], np.sqrt(found.kl))
        assert best[~np.isnan(best)][0] == 0


def test_what_is_no_curve_of_best_of_n_is_refused(tmp_path):
    for content in (
        "{}",
        "[1]",
        "not json",
        '{"title": "x", "metrics": [], "tables": [], "examples": [], "findings": [], "facts": {}}',
    ):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(DataError, match="is no curve of best-of-n"):
            read_best_of_n(tmp_path / "x.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_best_of_n(tmp_path / "none.json")
