"""`transformers serve` on this machine with a tiny model: a real server, which ignores what it does not know."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from assay.generation.endpoint import Endpoint
from assay.generation.generator import Generator
from assay.records import Completion
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Criterion, Rubric
from assay.scorers.judges.pointwise import PointwiseJudge
from tiny import save_tiny_base

pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path):
    """URL and name of a tiny random model behind `transformers serve`; skipped where that cannot start."""
    program = Path(sys.executable).with_name("transformers")
    if not program.exists() and shutil.which("transformers") is None:
        pytest.skip("the program transformers is not installed")
    model = save_tiny_base(tmp_path / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [str(program), "serve", str(model), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until and process.poll() is None:
                try:
                    httpx2.get(f"http://127.0.0.1:{port}/health", timeout=1.0)
                    break
                except httpx2.HTTPError:
                    time.sleep(0.2)
            else:
                pytest.skip(f"transformers serve does not start here: {log.read_text()[-300:]}")
            yield f"http://127.0.0.1:{port}/v1", str(model)
        finally:
            process.kill()


def test_a_real_server_writes_and_is_believed_by_what_came_back(served):
    url, model = served
    generator = Generator(Endpoint(url, model))
    features = generator.features()
    assert not features.logprobs  # transformers serve answers 200 and gives none
    replies = generator.sample(["Tell me about an egg."], n=2, temperature=1.0, max_tokens=8)[0]
    assert all(reply.error is None and reply.finish in ("stop", "length") for reply in replies)
    assert generator.bill.output_tokens > 0
    rubric = Rubric(criteria=(Criterion(name="good", text="Is it good?"),))
    with pytest.raises(ValueError, match="no probabilities of tokens"):
        PointwiseJudge(generator, rubric, settings=JudgeSettings(reading="tokens"))
    rewards = PointwiseJudge(generator, rubric, settings=JudgeSettings(reading="text", max_tokens=8)).score(
        [Completion(messages="hi", response="hello")]
    )
    assert not rewards.ok.any()  # random weights give no verdict, and none is made up
    assert rewards.error[0]
