"""A rubric through the one door: what names a judge, whose key goes where, and what is told before and after."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import assay
from assay.errors import EngineError
from assay.records import Completion
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Criterion, Rubric
from assay.rubrics.rubric_text import rubric_to_toml
from assay.rubrics.shipped import find_rubric
from assay.scorers.judges.open_judge import is_judge, merged_settings, open_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import open_scorer
from fake_chat import fake_chat, said

TOML = """
[judge]
reading = "text"
{more}

[[criterion]]
name = "good"
text = "Is it good?"
"""
ANSWER = Completion(messages="hi", response="hello")


@pytest.fixture
def rubric(tmp_path):
    path = tmp_path / "helpful.toml"
    path.write_text(TOML.format(more=""))
    return path


def test_a_rubric_file_is_a_scorer(rubric):
    with fake_chat(lambda request: said("Verdict: yes")) as chat:
        options = JudgeOptions(judge_model="m", judge_url=chat.url)
        scorer = assay.load(str(rubric), judge=options)
        assert isinstance(scorer, assay.Scorer)
        assert scorer.score([ANSWER]).value.tolist() == [1.0]
        opened = open_scorer(rubric, judge=options)
        assert opened.name == "helpful"
        assert opened.provenance == (None, None)  # nobody says what the judge was trained on
        assert opened.scorer.fingerprint == scorer.fingerprint
        opened.scorer.score([ANSWER])
        assert opened.facts["bill"].startswith("1 call and 1 to find out what the endpoint knows; 20 tokens read")


def test_shipped_rubrics_go_by_name_unless_something_here_has_it(tmp_path, monkeypatch):
    assert is_judge("helpfulness")
    assert is_judge("safety")
    assert not is_judge("runs/mine")
    assert not is_judge("http://host/rubric.toml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "safety").mkdir()
    assert not is_judge("safety")
    with pytest.raises(ValueError, match="no model is named: give --judge-model"):
        assay.load("helpfulness")


def test_flags_of_a_judge_are_for_rubrics():
    with pytest.raises(ValueError, match="is no rubric"):
        assay.load("rule:length", judge=JudgeOptions(judge_model="m"))
    with pytest.raises(ValueError, match=r"helpfulnes is no rubric: did you mean helpfulness\? .*\(concision, correctness,"):
        open_scorer("helpfulnes", judge=JudgeOptions(judge_model="m"))
    with pytest.raises(ValueError, match="is no rubric"):
        open_scorer("http://127.0.0.1:1", judge=JudgeOptions(judge_model="m"))


def test_a_key_goes_to_the_host_of_the_command_line_alone(rubric, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-2")
    with pytest.raises(ValueError, match=r"--key-env MY_KEY goes with --judge-url"):
        JudgeOptions(key_env="MY_KEY")
    with fake_chat(lambda request: said("Verdict: yes")) as chat:
        rubric.write_text(TOML.format(more=f'backend = "endpoint"\nurl = "{chat.url}"\nmodel = "m"'))
        assay.load(str(rubric)).score([ANSWER])  # this machine may be named by a file
        assert "Authorization" not in chat.requests[-1].headers
        given = JudgeOptions(judge_url=chat.url, key_env="MY_KEY")
        assay.load(str(rubric), judge=given).score([ANSWER])
        assert chat.requests[-1].headers["Authorization"] == "Bearer secret-2"
        with pytest.raises(ValueError, match="NO_KEY: there is no such variable"):
            assay.load(str(rubric), judge=JudgeOptions(judge_url=chat.url, key_env="NO_KEY"))
    rubric.write_text(TOML.format(more='backend = "endpoint"\nurl = "https://elsewhere.example/v1"\nmodel = "m"'))
    with pytest.raises(ValueError, match=r"sends texts to https://elsewhere.example/v1: say so on the command line"):
        assay.load(str(rubric))


def test_a_url_in_the_file_means_an_endpoint_unless_the_file_says_local(rubric):
    with fake_chat(lambda request: said("Verdict: yes")) as chat:
        rubric.write_text(TOML.format(more=f'url = "{chat.url}"\nmodel = "m"'))
        assert assay.load(str(rubric)).score([ANSWER]).value.tolist() == [1.0]
        assert chat.requests[-1].body["model"] == "m"
    rubric.write_text(TOML.format(more='url = "https://elsewhere.example/v1"\nmodel = "m"'))
    with pytest.raises(ValueError, match=r'say so on the command line.*backend = "local" in \[judge\]'):
        assay.load(str(rubric))
    rubric.write_text(TOML.format(more=f'backend = "local"\nurl = "{chat.url}"\nmodel = "m"'))
    assert merged_settings(find_rubric(rubric).judge, JudgeOptions()).backend == "local"
    rubric.write_text(rubric_to_toml(find_rubric(rubric)))
    assert find_rubric(rubric).judge.backend == "local", "it is so again when it was written and read"


def test_what_the_command_line_says_replaces_the_file():
    settings = JudgeSettings(model="theirs", mode="pairwise", budget=5.0)
    options = JudgeOptions(judge_model="mine", judge_mode="pointwise", judge_reading="text", judge_budget=1.0)
    merged = merged_settings(settings, options)
    assert (merged.model, merged.mode, merged.reading, merged.budget, merged.backend) == ("mine", "pointwise", "text", 1.0, "local")
    assert merged_settings(settings, JudgeOptions(judge_url="http://h:1/v1")).backend == "endpoint"
    with pytest.raises(ValueError, match="without a URL"):
        merged_settings(JudgeSettings(model="m", backend="endpoint"), JudgeOptions())


def test_a_second_run_says_what_came_from_the_ledger_and_no_price_names_the_fix(rubric, tmp_path):
    lines = []
    with fake_chat(lambda request: said("Verdict: yes")) as chat:
        options = JudgeOptions(judge_model="m", judge_url=chat.url, ledger=tmp_path / "ledger.sqlite")
        for _ in range(2):
            judge = open_judge(rubric, options, note=lambda *both: lines.append(both[1]))
            judge.score([ANSWER, Completion(messages="hi", response="go away")])
        assert judge.bill().startswith("0 calls, 2 replies from the ledger; 0 tokens read")
    assert "no price known for m: give price_in and price_out in [judge]" in lines[0]


def test_price_and_what_is_ignored_are_told_before_anything_is_asked(rubric):
    said_lines = []
    priced = Rubric(criteria=(Criterion(name="good", text="?"),), judge=JudgeSettings(reading="text", price_in=2.0, price_out=8.0))
    with fake_chat(lambda request: said("Verdict: yes"), ("n",)) as chat:
        judge = open_judge(priced, JudgeOptions(judge_model="m", judge_url=chat.url), note=lambda *both: said_lines.append(both))
        assert not chat.requests
        ((label, line),) = said_lines
        assert label == "judge"
        assert "1 call an answer" in line
        assert "$2.00 in and $8.00 out a million tokens" in line
        assert "ignores or refuses logprobs, response_format" in line
        judge.score([ANSWER])
        assert judge.generator.bill.price == pytest.approx(2 * (10 * 2 + 2 * 8) / 1e6)
    with pytest.raises(ValueError, match="go together"):
        open_judge(
            Rubric(criteria=priced.criteria, judge=JudgeSettings(price_in=1.0)), JudgeOptions(judge_model="m", judge_url=chat.url)
        )


def test_every_mode_opens(rubric):
    with fake_chat(lambda request: said("Verdict: A" if "Answer B" in request.text else "Verdict: yes")) as chat:
        scopes = {}
        for mode in ("pointwise", "pairwise", "listwise"):
            judge = assay.load(str(rubric), judge=JudgeOptions(judge_model="m", judge_url=chat.url, judge_mode=mode))
            scopes[mode] = judge.scope
            assert judge.score([ANSWER, Completion(messages="hi", response="go away")]).ok.all()
        assert scopes == {"pointwise": "global", "pairwise": "prompt", "listwise": "prompt"}


def test_a_rubric_of_rules_needs_no_model(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('[[criterion]]\nname = "exact"\nkind = "rule"\nrule = "exact"\n')
    scorer = assay.load(str(path))
    right, wrong = (Completion(messages="2+2", response=text, ground_truth={"answer": "4"}) for text in ("4", "5"))
    rewards = scorer.score([right, wrong, ANSWER])
    assert rewards.value[:2].tolist() == [1.0, 0.0]
    assert np.isnan(rewards.value[2])
    assay.check_scorer(scorer, [right, wrong, ANSWER])
    with pytest.raises(ValueError, match="has rules alone"):
        assay.load(str(path), judge=JudgeOptions(judge_model="m"))


def test_an_endpoint_that_does_not_answer_is_reported_at_once(rubric):
    with pytest.raises(EngineError, match="cannot be reached"):
        assay.load(str(rubric), judge=JudgeOptions(judge_model="m", judge_url="http://127.0.0.1:9/v1"))


def test_a_judge_behind_an_endpoint_loads_no_torch(rubric):
    script = (
        "import sys; sys.path.insert(0, 'tests'); import assay; from fake_chat import fake_chat, said\n"
        "from assay.scorers.judges.options import JudgeOptions\n"
        "with fake_chat(lambda request: said('Verdict: yes')) as chat:\n"
        f"    scorer = assay.load({str(rubric)!r}, judge=JudgeOptions(judge_model='m', judge_url=chat.url))\n"
        "    scorer.score([assay.Completion(messages='hi', response='hello')])\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'tokenizers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
