"""The client matrix: install each client by pinned hashes, run it against a served model, compare the rewards that it read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import numpy as np  # noqa: E402

import assay  # noqa: E402
from assay.models.saved.artifact import save_artifact  # noqa: E402
from assay.records import Completion  # noqa: E402
from assay.scorers.local import LocalScorer  # noqa: E402
from assay.wire import completion_from_row  # noqa: E402
from served_process import process  # noqa: E402
from step_models import save_step_artifact  # noqa: E402
from tiny import save_tiny_base, tiny_model, tiny_renderer  # noqa: E402

ENVIRONMENTS = Path(os.environ.get("CLIENTS_DIR", ROOT / ".clients"))
PAGE = ROOT / "docs" / "serving.md"
BEGIN, END = "<!-- clients: made by dev/clients/run.sh --write -->\n", "<!-- /clients -->"
MODEL = "rm"
QUESTION = "How do I boil an egg?"
ANSWERS = ["Put it in water.", "It is four, not five.", "Tell me a story.", "The lazy dog jumps over a lighthouse."]
PATIENCE = 300.0  # seconds of one client
TRIES = 3  # of an installation, whose downloads may break


class Client(NamedTuple):
    """A client by the name of its lock and its script. beside: torch, transformers and Assay are those of .venv, with whose pinned
    versions it shares them."""

    name: str
    beside: bool = False


CLIENTS = (
    Client("openai"),
    Client("huggingface_hub"),
    Client("litellm"),
    Client("cohere"),
    Client("llama_index"),
    Client("reward_hub", beside=True),
    Client("trl", beside=True),
    Client("openrlhf", beside=True),
    Client("verl", beside=True),
    Client("ms_swift", beside=True),
    Client("llamafactory", beside=True),
)


class Row(NamedTuple):
    """One line of the table."""

    client: str
    call: str
    path: str
    equal: str


class Failed(Exception):
    """A client could not be installed, ended with an error, or read another reward."""


def main(words: Sequence[str]) -> int:
    is_written = "--write" in words
    chosen = [client for client in CLIENTS if client.name in words] or list(CLIENTS)
    unknown = {word for word in words if not word.startswith("--")} - {client.name for client in CLIENTS}
    if unknown or {word for word in words if word.startswith("--")} - {"--write"}:
        raise SystemExit(
            f"{sorted(unknown) or words} is no client: give some of {', '.join(client.name for client in CLIENTS)}, or --write"
        )
    began, rows, failures = time.monotonic(), [], []
    with ThreadPoolExecutor(2) as pool, served() as (cases, scorer):
        installing = [pool.submit(install, client) for client in chosen]
        for client, installed in zip(chosen, installing, strict=True):
            try:
                found = run(client, installed.result(), cases, scorer)
                rows += found
                print(f"{client.name}: {', '.join(f'{row.path} {row.equal}' for row in found)}", flush=True)
            except Failed as failure:
                failures.append(client.name)
                print(f"{client.name} FAILED: {failure}", flush=True)
    if len(chosen) == len(CLIENTS) and not failures and not is_table_kept(rows, is_written):
        failures.append("the table of docs/serving.md is another: run dev/clients/run.sh --write")
        print(failures[-1])
    print(f"{time.monotonic() - began:.0f} s")
    print(f"{len(chosen) - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


@contextmanager
def served() -> Iterator[tuple[dict[str, Any], LocalScorer]]:
    """A tiny random model behind `assay serve`; gives the cases, and the scorer that says what is right."""
    with tempfile.TemporaryDirectory() as directory:
        artifact = Path(directory) / "artifact"
        save_artifact(tiny_model(), tiny_renderer(), artifact, {"title": "a tiny random model"})
        base = save_tiny_base(Path(directory) / "base")
        scorer = assay.load(artifact, dtype="float32", device="cpu")
        assert isinstance(scorer, LocalScorer)
        conversations = [[{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}] for answer in ANSWERS]
        command = [sys.executable, "-m", "assay.cli", "serve", f"{MODEL}={artifact}", "--port", "0"]
        with process([*command, "--device", "cpu", "--dtype", "float32"], PATIENCE, PYTHONPATH=str(ROOT / "src")) as running:
            cases = {
                "url": running.url,
                "model": MODEL,
                "question": QUESTION,
                "answers": ANSWERS,
                "conversations": conversations,
                "texts": [str(scorer.renderer.text(one)) for one in reversed(asked())],
                "base": str(base),
                "steps": str(save_step_artifact(Path(directory) / "steps")),
            }
            yield cases, scorer


def asked() -> list[Completion]:
    return [Completion(messages=QUESTION, response=answer) for answer in ANSWERS]


def install(client: Client) -> Path:
    """The interpreter of the client's environment, made anew when its lock has changed. Raises Failed."""
    lock, home = HERE / "locks" / f"{client.name}.txt", ENVIRONMENTS / client.name
    python, stamp = home / "bin" / "python", home / "lock"
    digest = sha256(lock.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return python
    checked(["-m", "venv", "--clear", "--without-pip", str(home)], "no environment")
    pip = [
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    for attempt in range(TRIES):
        try:
            checked([*pip, "--requirement", str(lock)], "not installed")
            break
        except Failed:
            if attempt + 1 == TRIES:
                raise
            time.sleep(5.0 * (attempt + 1))
    if client.beside:
        (site,), (own,) = (list((place / "lib").glob("python3*/site-packages")) for place in (home, Path(sys.prefix)))
        (site / "beside.pth").write_text(f"{own}\n{ROOT / 'src'}\n")
    stamp.write_text(digest)
    return python


def checked(arguments: Sequence[str], otherwise: str) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{otherwise}: {' '.join(done.stderr.split())[-600:]}")


def run(client: Client, python: Path, cases: Mapping[str, Any], scorer: LocalScorer) -> list[Row]:
    """The rows of one client. It gets no variable of ours but what it needs, and a home of its own. Raises Failed."""
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "cases.json"
        file.write_text(json.dumps(cases))
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": home,
            "TMPDIR": home,
            "LANG": "C.UTF-8",
            "NO_PROXY": "*",
            "OMP_NUM_THREADS": "1",
        }
        command = [str(python), "-s", str(HERE / "alone.py"), str(HERE / f"ask_{client.name}.py"), str(file)]
        try:
            done = subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"no answer in {PATIENCE:g} s") from None
    if done.returncode:
        raise Failed(f"status {done.returncode}: {' '.join(done.stderr.split())[-900:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    if not told["rows"]:
        raise Failed("it asked nothing")
    steps = assay.load(cases["steps"], dtype="float32", device="cpu")
    return [judged(f"{told['package']} {told['version']}", row, steps if row["steps"] else scorer) for row in told["rows"]]


def judged(client: str, row: Mapping[str, Any], scorer: LocalScorer) -> Row:
    """Raises Failed unless every reward, and the number of tokens where the client reads it, is the scorer's own."""
    of = row["of"]
    completions = [completion_from_row(item) for item in of] if isinstance(of, list) else asked()[:: -1 if of == "texts" else 1]
    rewards = scorer.score(completions)
    expected = [float(one) for one in (np.concatenate(list(rewards.steps or ())) if row["steps"] else rewards.value)]
    if of == "sigmoid answers":
        expected = [float(assay_sigmoid(value)) for value in expected]
    seen = row["values"]
    if (
        len(seen) != len(expected)
        or len(seen) < 2
        or any(abs(a - b) > scorer.tolerance for a, b in zip(seen, expected, strict=True))
    ):
        raise Failed(f"{row['call']}: it read {seen}, the rewards are {expected}")
    num_tokens = sum(len(item.tokens) for item in scorer.renderer.render(completions))
    if row["tokens"] not in (None, num_tokens):
        raise Failed(f"{row['call']}: it counts {row['tokens']} tokens, there are {num_tokens}")
    told = "all" if isinstance(of, list) else f"{len(seen)} of {len(expected)}"  # how many a trainer asks for may differ
    return Row(client, row["call"], row["path"], told + (", tokens" if row["tokens"] else ""))


def assay_sigmoid(value: float) -> float:
    from assay.serve.contracts.request_fields import sigmoid

    return sigmoid(value)


def is_table_kept(rows: Sequence[Row], is_written: bool) -> bool:
    """Whether the page holds the table of these rows; with is_written it does afterwards."""
    lines = ["| client | what it calls | path | equal rewards |", "|---|---|---|---|"]
    lines += [f"| {row.client} | `{row.call}` | `{row.path}` | {row.equal} |" for row in rows]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + "\n".join(lines) + "\n" + END + after
    if is_written and text != wanted:
        PAGE.write_text(wanted, encoding="utf-8")
    return is_written or text == wanted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
