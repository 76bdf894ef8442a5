"""The certificate: a sound artifact passes, and every way of breaking one, or of serving it wrong, is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, GPT2Config, GPTNeoConfig

from assay.audit.parity.against import DIAGNOSIS, FLIPS, FLIPS_OVERALL, REMOTE, TIES, RemoteEngine, compare_rewards
from assay.audit.parity.certificate import ENGINE, GOLDEN, GOLDEN_TOKENS, Certificate, make_certificate
from assay.audit.parity.traps import BF16_HEAD, DOUBLED, PAD_IS_EOS, RIGHT_CUT, SIGMOID, UNCLOSED, num_new_ties
from assay.cli import main
from assay.models.backbone import Backbone
from assay.models.reward_model import RewardModel, new_head
from assay.models.saved.artifact import save_artifact
from assay.models.saved.golden import GOLDEN_FILE, read_golden
from assay.models.saved.plain import PlainReader
from assay.records import Completion, Finding, Report
from assay.report.run_page import write_run_page
from assay.run_files import REWARD_FILE, read_description
from assay.stats.metrics import sigmoid
from assay.wire import report_from_json
from fake_engine import fake_engine
from tiny import CHATML, tiny_model, tiny_renderer

pytestmark = pytest.mark.slow

CLOSED_LAST = CHATML.replace("<|im_end|>\n' }}{% endfor %}", "<|im_end|>' }}{% endfor %}")  # the end token is the rewarded one


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "artifact"
    save_artifact(tiny_model(), tiny_renderer(CLOSED_LAST, max_length=256), path, {})
    return path


@pytest.fixture
def saved(pristine, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(pristine, tmp_path / "artifact"))


def finding(report: Report | Certificate, name: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.name == name]
    return found


def failed(report: Report | Certificate) -> set[str]:
    return {finding.name for finding in report.findings if finding.level == "fail"}


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def without_golden(path: Path) -> Path:
    (path / GOLDEN_FILE).unlink()
    return path


# A sound artifact


def test_a_sound_artifact_passes_with_0_and_prints_every_verdict(saved, capsys):
    assert main(["audit", "verify", str(saved), "--verbose"]) == 0
    printed = capsys.readouterr().out
    report = report_from_json((saved / "eval" / "verify.json").read_text())
    assert report.title == "Parity certificate"
    assert failed(report) == set()
    assert len(report.tables[0].rows) == len(report.findings) == 16
    for name in (GOLDEN, "padding left", "packing", "pad == eos", "dated template"):
        assert f"ok   {name}" in printed
    assert 0 <= report.metric("difference from plain transformers").value < 1e-4
    assert report.facts["model"] == read_description(saved)["fingerprint"]


@pytest.mark.parametrize("kind", ["qwen", "gemma"])
def test_saved_in_bfloat16_it_passes_too(kind, tmp_path):
    save_artifact(tiny_model(kind), tiny_renderer(), tmp_path / "a", {}, dtype=torch.bfloat16)
    report = make_certificate(tmp_path / "a")
    assert report.is_sound
    assert finding(report, GOLDEN).value < 1e-4
    assert report.page.facts["weights saved in"] == "bfloat16"


@pytest.mark.parametrize("settings", [{"max_length": 8}, {"max_length": 128, "overlong": "set_aside"}, {"max_length": 4096}])
def test_any_length_policy_passes(settings, tmp_path):
    save_artifact(tiny_model(), tiny_renderer(**settings), tmp_path / "a", {})
    report = make_certificate(tmp_path / "a")
    assert report.is_sound
    assert ("left out" in report.page.facts) == (settings["max_length"] == 4096)


def test_where_every_text_is_cut_what_cannot_be_compared_is_no_pass(tmp_path, serve):
    path = tmp_path / "a"
    save_artifact(tiny_model(), tiny_renderer(max_length=8), path, {})
    report = against(path, serve(lambda rows: np.zeros(len(rows))), engine="openrlhf")
    for name in ("order", "packing", ENGINE):
        found = finding(report, name)
        assert found.level == "warn", name
        assert found.why.startswith("not compared") or "not measured" in found.why
    assert report.is_sound


def test_when_no_text_has_a_reward_there_is_no_certificate(tmp_path):
    save_artifact(tiny_model(), tiny_renderer(max_length=8, overlong="set_aside"), tmp_path / "a", {})
    report = make_certificate(tmp_path / "a")
    assert failed(report) == {"traps"}
    assert finding(report, GOLDEN).why.startswith("not measured")


def test_a_run_directory_keeps_the_certificate_and_its_page_shows_it(trained_run, tmp_path):
    run = Path(shutil.copytree(trained_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "cache")))
    assert main(["audit", "verify", str(run)]) == 0
    assert report_from_json((run / "eval" / "verify.json").read_text()).title == "Parity certificate"
    assert "Parity certificate" in write_run_page(run).read_text()
    assert main(["audit", "verify", str(run)]) == 0


def test_what_wrong_readers_do_is_measured(saved):
    """Each movement is that of a wrong reading made here by hand."""
    report, plain, golden = make_certificate(saved), PlainReader(saved), read_golden(saved)
    assert golden is not None
    long = golden.token_ids[-1]
    rows = [ids for ids in golden.token_ids[:-1] if ids]
    ours = plain.rewards(rows, one_by_one=True)
    last_dropped = plain.rewards([ids[:-1] for ids in rows], one_by_one=True)
    with_bos = plain.rewards([(1, *ids) for ids in rows], one_by_one=True)
    assert {ids[-1] for ids in rows} == {2} == {plain.tokenizer.eos_token_id}
    assert finding(report, "pad == eos").value == pytest.approx(np.abs(last_dropped - ours).max(), abs=1e-5)
    assert finding(report, "double BOS").value == pytest.approx(np.abs(with_bos - ours).max(), abs=1e-5)
    everything = [*rows, long]
    unclosed = plain.rewards([ids[:-1] for ids in everything], one_by_one=True)
    kept = plain.rewards(everything, one_by_one=True)
    assert finding(report, "end token").value == pytest.approx(np.abs(unclosed - kept).max(), abs=1e-5)
    assert finding(report, "activation").value == pytest.approx(np.abs(sigmoid(kept) - kept).max(), abs=1e-5)
    whole = plain.token_ids(plain.text(golden.completions[-1]))
    cut = plain.rewards([whole[:256]], one_by_one=True)
    assert finding(report, "truncation side").value == pytest.approx(abs(cut[0] - kept[-1]), abs=1e-5)


def test_ties_of_a_bfloat16_head_are_counted_by_hand():
    rewards = np.array([1.0, 1.001, 1.01, 2.0], np.float32)  # between 1 and 2 bfloat16 has steps of 1/128 = 0.0078
    rounded = torch.tensor(rewards).to(torch.bfloat16).float().numpy()
    assert rounded.tolist() == [1.0, 1.0, 1.0078125, 2.0]
    assert num_new_ties(rewards, rounded, [(0, 1), (0, 2), (1, 2), (2, 3)]) == 1
    assert num_new_ties(rounded, rounded, [(0, 1)]) == 0, "equal before: no new tie"


# Damaged artifacts: 3


def damage_weights(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors["score.weight"] *= 1.001
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


DAMAGES = {
    "weights": (damage_weights, "the weights were changed"),
    "settings": (lambda path: edit(path / REWARD_FILE, max_length=128), "reward.json was edited"),
    "template": (lambda path: (path / "chat_template.jinja").write_text(CLOSED_LAST + " "), "chat template is not the one"),
    "golden": (lambda path: (path / GOLDEN_FILE).write_text("{"), "golden.json cannot be read"),
    "no template": (lambda path: (path / "chat_template.jinja").unlink(), "chat template is not the one"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_files_end_with_3_and_are_named(what, saved, capsys):
    damage, message = DAMAGES[what]
    damage(saved)
    assert main(["audit", "verify", str(saved)]) == 3
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (saved / "eval").exists()


def test_a_caller_s_mistake_ends_with_2(saved, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "nowhere")], "neither an artifact"),
        ([str(saved), "--against", "localhost:8000"], "no URL of an engine: give http://HOST:PORT"),
        ([str(saved), "--tolerance", "0"], "--tolerance 0.0 must be a positive number"),
        ([str(saved), "--tolerance", "nan"], "--tolerance nan must be a positive number"),
    ):
        assert main(["audit", "verify", *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


# Corruptions that only the certificate sees: 4


def change_golden(path: Path, place: int, **changes: Any) -> None:
    content = json.loads((path / GOLDEN_FILE).read_text())
    content["items"][place] |= changes
    (path / GOLDEN_FILE).write_text(json.dumps(content))


def test_a_golden_reward_that_is_off_by_a_hundredth_fails(saved):
    reward = json.loads((saved / GOLDEN_FILE).read_text())["items"][0]["reward"]
    change_golden(saved, 0, reward=reward + 0.01)
    report = make_certificate(saved)
    assert failed(report) == {GOLDEN}
    assert finding(report, GOLDEN).value == pytest.approx(0.01, abs=1e-4)
    assert main(["audit", "verify", str(saved)]) == 4


def test_a_golden_reward_that_is_gone_fails(saved):
    change_golden(saved, 0, reward=None)
    report = make_certificate(saved)
    assert failed(report) == {GOLDEN}
    assert "1 golden texts have a reward now" in finding(report, GOLDEN).why


def test_other_golden_tokens_fail(saved):
    change_golden(saved, 0, token_ids=[1, 2, 3])
    assert failed(make_certificate(saved)) == {GOLDEN_TOKENS}


def add_bos(path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    tokenizer.save(str(path / "tokenizer.json"))


def test_a_tokenizer_made_to_double_the_bos_fails(saved):
    add_bos(saved)
    report = make_certificate(saved)
    assert failed(report) == {"double BOS"}
    assert "adds 1 special tokens to a text, 0 when the artifact was saved" in finding(report, "double BOS").why
    assert finding(report, "double BOS").value > 0.01


def test_an_artifact_saved_with_such_a_tokenizer_is_warned_of_and_passes(tmp_path):
    renderer = tiny_renderer()
    renderer.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    save_artifact(tiny_model(), renderer, tmp_path / "a", {})
    report = make_certificate(tmp_path / "a")
    assert report.is_sound
    assert finding(report, "double BOS").level == "warn"


def test_a_template_that_begins_twice_fails(tmp_path):
    save_artifact(tiny_model(), tiny_renderer("{{ bos_token }}" + CHATML), tmp_path / "a", {})
    report = make_certificate(tmp_path / "a")
    assert failed(report) == {"double BOS"}
    assert "begin with two BOS tokens" in finding(report, "double BOS").why


def test_a_tokenizer_that_pads_with_eos_fails(saved):
    edit(saved / "tokenizer_config.json", pad_token="<|im_end|>")
    report = make_certificate(saved)
    assert {"pad == eos", "batch size, padding right"} <= failed(report)
    assert "the tokenizer pads with 2, the model looks for 0" in finding(report, "pad == eos").why


def test_padding_with_eos_in_both_files_fails(saved):
    edit(saved / "tokenizer_config.json", pad_token="<|im_end|>")
    edit(saved / "config.json", pad_token_id=2)
    report = make_certificate(saved)
    assert {"pad == eos", "plain transformers"} <= failed(report)
    assert "padding id 2 is also the token that ends an answer" in finding(report, "pad == eos").why


def test_a_model_that_looks_for_no_padding_fails_without_a_traceback(saved):
    edit(saved / "config.json", pad_token_id=None)
    assert {"pad == eos", "padding left"} <= failed(make_certificate(saved))


@pytest.mark.parametrize("date", ["{{ strftime_now('%d %b %Y') }}", "{% set form = '%Y' %}{{ strftime_now(form) }}"])
def test_a_template_whose_date_was_put_back_fails(date, tmp_path):
    dated = date + CHATML
    save_artifact(tiny_model(), tiny_renderer(dated), tmp_path / "a", {})
    assert make_certificate(tmp_path / "a").is_sound
    (tmp_path / "a" / "chat_template.jinja").write_text(dated)  # Assay pins it again when it loads it: others do not
    report = make_certificate(tmp_path / "a")
    assert {"dated template", "text to tokens"} <= failed(report)
    assert finding(report, "dated template").value == 11


def test_a_template_whose_end_was_taken_off_fails(tmp_path):
    unclosed = CHATML.replace("<|im_end|>", "")
    save_artifact(tiny_model(), tiny_renderer(unclosed), tmp_path / "a", {})
    assert make_certificate(tmp_path / "a").is_sound
    (tmp_path / "a" / "chat_template.jinja").write_text(unclosed)
    assert "text to tokens" in failed(make_certificate(tmp_path / "a"))


# Exposed, but sound: warnings


def test_an_artifact_older_than_golden_vectors_is_told_so_and_passes_the_rest(saved):
    report = make_certificate(without_golden(saved))
    assert report.is_sound
    assert finding(report, GOLDEN).level == "warn"
    assert "no golden vectors" in finding(report, GOLDEN).why
    assert finding(report, "packing").level == "ok"


def test_an_older_artifact_is_warned_of_the_sigmoid_and_of_the_side_that_is_cut(saved):
    edit(saved / "config.json", problem_type=None)
    edit(saved / "tokenizer_config.json", truncation_side="right")
    report = make_certificate(without_golden(saved))
    assert report.is_sound
    assert finding(report, "activation").level == finding(report, "truncation side").level == "warn"
    assert "use_activation is false" in finding(report, "activation").why
    assert "cuts off the end" in finding(report, "truncation side").why


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
def test_learned_positions_are_warned_of_where_padding_goes_left(name, tmp_path):
    shape = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
    if name == "gpt2":
        config: Any = GPT2Config(**shape, n_embd=32, n_layer=2, n_head=4, n_positions=300)
    else:  # its local attention cannot branch: rows alone
        layers: Any = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": 8}
        config = GPTNeoConfig(**shape, hidden_size=32, max_position_embeddings=300, **layers)
    torch.manual_seed(0)
    backbone = Backbone(AutoModel.from_config(config).eval())
    assert backbone.can_branch == (name == "gpt2")
    save_artifact(RewardModel(backbone, new_head(32, seed=0)), tiny_renderer(max_length=256), tmp_path / "a", {})
    report = make_certificate(tmp_path / "a")
    assert report.is_sound
    assert finding(report, "padding left").level == "warn"
    assert finding(report, "padding left").value > 0.01


# A remote engine

Answer = Callable[[list[list[int]]], Any]


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[Answer], str]]:
    """Starts an engine that answers token ids by a function; gives its URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ExitStack() as running:

        def start(answer: Answer) -> str:
            def speak(path: str, body: dict[str, Any]) -> tuple[int, Any]:
                assert (path, body["use_activation"]) == ("/classify", False)
                reply = answer(body["input"])
                if isinstance(reply, str):
                    return 500, reply
                return 200, {"data": [{"index": i, "probs": [float(value)]} for i, value in enumerate(reply)]}

            return running.enter_context(fake_engine(speak))

        yield start


def against(saved: Path, url: str, **settings: Any) -> Certificate:
    return make_certificate(saved, remote=RemoteEngine(url=url, **settings))


@pytest.fixture
def plain(pristine) -> PlainReader:
    return PlainReader(pristine)


def right(plain: PlainReader) -> Answer:
    return lambda rows: plain.rewards(rows, one_by_one=True)


def test_an_engine_that_is_right_passes(saved, serve, plain):
    url = serve(right(plain))
    assert main(["audit", "verify", str(saved), "--against", url]) == 0
    report = report_from_json((saved / "eval" / "verify.json").read_text())
    assert report.metric(REMOTE).value < 1e-4
    assert [report.metric(name).value for name in (FLIPS, FLIPS_OVERALL, TIES)] == [0, 0, 0]
    assert (report.metric(FLIPS).n, report.metric(FLIPS_OVERALL).n) == (6, 55), "4 answers to one prompt; 11 texts with a reward"
    assert report.facts["against"] == f"{url} (vllm)"


def test_a_sigmoid_is_recognised(saved, serve, plain):
    url = serve(lambda rows: sigmoid(plain.rewards(rows, one_by_one=True)))
    report = against(saved, url)
    assert failed(report) == {REMOTE, DIAGNOSIS}
    assert SIGMOID in finding(report, DIAGNOSIS).why
    assert report.report().metric(FLIPS).value == 0
    assert main(["audit", "verify", str(saved), "--against", url]) == 4


def test_rewards_that_are_off_by_a_constant_fail_and_are_called_that(saved, serve, plain):
    report = against(saved, serve(lambda rows: plain.rewards(rows, one_by_one=True) + 0.05))
    assert failed(report) == {REMOTE, DIAGNOSIS}
    assert finding(report, REMOTE).value == pytest.approx(0.05, abs=1e-4)
    assert "a constant of +0.05" in finding(report, DIAGNOSIS).why
    allowed = against(saved, serve(lambda rows: plain.rewards(rows, one_by_one=True) + 0.05), tolerance=0.06)
    assert allowed.is_sound
    assert finding(allowed, DIAGNOSIS).level == "warn"


def test_one_flip_fails_even_where_every_difference_is_within_the_tolerance(saved, serve, plain):
    golden = read_golden(saved)
    assert golden is not None
    names = [completion.id for completion in golden.completions]
    low, high = sorted((names.index("first of four"), names.index("third of four")), key=lambda i: golden.rewards[i])
    margin = float(golden.rewards[high] - golden.rewards[low])

    def answer(rows: list[list[int]]) -> np.ndarray:
        rewards = plain.rewards(rows, one_by_one=True)
        places = [rows.index(list(golden.token_ids[i])) for i in (low, high)]
        rewards[places] += np.array([0.55, -0.55], np.float32) * margin
        return rewards

    report = against(saved, serve(answer), tolerance=0.6 * margin)
    assert finding(report, REMOTE).level == "ok"
    assert FLIPS in failed(report)
    assert report.report().metric(FLIPS).value >= 1


def test_rewards_rounded_to_bfloat16_are_recognised(saved, serve, plain):
    url = serve(lambda rows: torch.tensor(plain.rewards(rows, one_by_one=True)).to(torch.bfloat16).float().numpy())
    report = against(saved, url)
    assert failed(report) == {REMOTE, DIAGNOSIS}
    assert BF16_HEAD in finding(report, DIAGNOSIS).why
    assert finding(report, REMOTE).value < 0.01
    loose = against(saved, url, tolerance=0.02)
    assert loose.is_sound
    assert finding(loose, DIAGNOSIS).level == "warn"


WRONG_READERS: dict[str, Callable[[PlainReader, list[list[int]]], np.ndarray]] = {
    PAD_IS_EOS: lambda plain, rows: plain.rewards(rows, pad_id=2),
    DOUBLED: lambda plain, rows: plain.rewards([[1, *row] for row in rows], one_by_one=True),
    UNCLOSED: lambda plain, rows: plain.rewards([row[:-1] for row in rows], one_by_one=True),
}


@pytest.mark.parametrize("name", WRONG_READERS)
def test_an_engine_that_fell_into_a_trap_is_told_which(name, saved, serve, plain):
    report = against(saved, serve(lambda rows: WRONG_READERS[name](plain, rows)))
    assert {REMOTE, DIAGNOSIS} <= failed(report)
    named = finding(report, DIAGNOSIS).why
    same = {PAD_IS_EOS, UNCLOSED}  # on texts that end in eos these two read the same token
    assert any(f"those of {one}," in named for one in (same if name in same else {name}))


def test_an_engine_that_cuts_the_other_end_is_told_so(saved, serve, plain):
    golden = read_golden(saved)
    assert golden is not None
    whole = plain.token_ids(plain.text(golden.completions[-1]))
    report = against(saved, serve(lambda rows: plain.rewards([whole[:256] if len(r) == 256 else r for r in rows], one_by_one=True)))
    assert {REMOTE, DIAGNOSIS} <= failed(report)
    assert RIGHT_CUT in finding(report, DIAGNOSIS).why


BROKEN = {
    "too few rows": (lambda rows: np.zeros(3), "answered 3 rewards to 11 texts"),
    "an error": (lambda rows: "broken", "answered 500"),
    "no number": (lambda rows: np.full(len(rows), np.nan), "answered nan for text 0"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_engine_that_is_broken_fails_with_a_message_that_names_it(what, saved, serve, capsys):
    answer, message = BROKEN[what]
    url = serve(answer)
    assert main(["audit", "verify", str(saved), "--against", url]) == 4
    report = report_from_json((saved / "eval" / "verify.json").read_text())
    assert failed(report) == {ENGINE}
    assert f"{url}/classify {message}" in finding(report, ENGINE).why
    assert "Traceback" not in capsys.readouterr().err


def test_an_engine_that_is_not_there_fails_with_the_fix(saved):
    report = against(saved, "http://127.0.0.1:9")
    assert failed(report) == {ENGINE}
    assert "http://127.0.0.1:9/classify cannot be reached" in finding(report, ENGINE).why
    assert "start the engine" in finding(report, ENGINE).why


def test_flips_and_ties_by_hand():
    completions = [Completion(messages=prompt, response=str(i)) for i, prompt in enumerate("aaab")]
    ours, theirs = np.array([1.0, 2.0, 3.0, 0.0], np.float32), np.array([2.1, 2.0, 2.0, 2.05], np.float32)
    compared = compare_rewards(ours, theirs, completions, {}, tolerance=1.5, exact=1e-4)
    values = {metric.name: metric.value for metric in compared.metrics}
    # within a: 1-2 and 1-3 turn, 2-3 become a tie; with b: 2 and 3 fall below it, and 1 does not
    assert values == {REMOTE: pytest.approx(2.05), FLIPS: 2, FLIPS_OVERALL: 4, TIES: 1}
    levels = {finding.name: (finding.level, finding.value) for finding in compared.findings}
    assert levels[FLIPS] == ("fail", 1), "1-3 are 2 apart, 1-2 only 1"
    assert levels[TIES] == ("warn", 1)
    assert DIAGNOSIS not in levels
