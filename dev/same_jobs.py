"""The jobs of same_figures.py in the words of the start commit, the files that they work on, and how they are run on a side."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parents[1]
START = "2a5a825"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
LIBRARIES = [
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "pyarrow.parquet",
    "sklearn.linear_model",
    "scipy.stats",
    "rich",
    "tyro",
]
NEW_COMMANDS = {
    "diff": "compare",
    "trust": "audit all",
    **{name: f"audit {name}" for name in ("probe", "drift", "attribute", "best-of-n", "verify")},
    **{name: f"model {name}" for name in ("calibrate", "ensemble", "average", "export")},
    "align-scale": "model rescale",
    "curve": "data curve",
}
NEW_FLAGS: dict[str, str] = {"--reference": "--data"}
"""Old -> new flag, for a tree with the new commands."""

IN = "../../inputs"
CPU = "--device cpu --dtype float32"
OTHER = f"{CPU} --data {IN}/other.jsonl"
SCORE = f"--input {IN}/completions.jsonl --output rewards.jsonl"
FIT = f"{CPU} --calibration 0.2 --test 0.2 --max-length 320 --batch-tokens 1000"
TRAIN = f"train {FIT} --data {IN}/pairs.jsonl --base {IN}/llama"
BLOCKS = f"{TRAIN} --params blocks:1 --depth full --learning-rate 1e-3 --checkpoint-every 7"
HEAD = f"{TRAIN} --params head --depth 3 --epochs 4 --weight-decay 0.1"
MORE = f"train {FIT} --data {IN}/more.jsonl --params blocks:1 --init-from blocks --replay 0.3"
CURVE = f"curve {FIT} --data {IN}/pairs.jsonl --base {IN}/llama --params head --epochs 3 --points 3 --repeats 2"
BEST = f"--data {IN}/candidates.jsonl"
WIDE = f"--candidates {IN}/candidates.jsonl --against {IN}/other.jsonl --suite {IN}/lists.jsonl"


class Side(NamedTuple):
    """A tree, the folder of its results, and its words for the old commands; without any, its flags are the old ones too."""

    tree: Path
    folder: Path
    words: Mapping[str, str] = {}


class Job(NamedTuple):
    """A command. Its run or model is the folder of its name. on: earlier jobs whose folders it gets a copy of, to work on.
    statuses: those that say that it worked. prepare: what is done to the copies before."""

    name: str
    words: str
    on: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (0,)
    prepare: Callable[[Path], None] = lambda folder: None


def unfinish(folder: Path) -> None:
    """A run that was killed before its last checkpoint."""
    shutil.rmtree(folder / "blocks" / "artifact", ignore_errors=True)
    for last in sorted((folder / "blocks" / "checkpoints").glob("step-*"))[-1:]:
        shutil.rmtree(last)


JOBS = (
    Job("full", f"{TRAIN} --params full --epochs 1 --out full"),
    Job("blocks", f"{BLOCKS} --out blocks"),
    Job("head", f"{TRAIN} --params head --out head"),
    Job("head-mean", f"{TRAIN} --params head:mean --out head-mean"),
    Job("lora", f"{TRAIN} --params lora:4 --epochs 1 --out lora"),
    Job("gemma", f"{BLOCKS} --overlong set_aside --out gemma".replace("/llama", "/gemma")),
    Job("bfloat16", f"{BLOCKS} --out bfloat16".replace("float32", "bfloat16")),
    Job("flips", f"{HEAD} --loss flips --flip-rate 0.1 --use-margin --out flips"),
    Job("rdpo", f"{HEAD} --loss rdpo --flip-rate 0.1 --centring 0.1 --out rdpo"),
    Job("rao-kupper", f"{HEAD} --loss rao-kupper --out rao-kupper"),
    Job("davidson", f"{HEAD} --loss davidson --out davidson"),
    Job("smoothing", f"{HEAD} --label-smoothing 0.1 --use-margin --eval-data {IN}/other.jsonl --out smoothing"),
    Job("debias-length", f"{HEAD} --debias-length --out debias-length"),
    Job("ensemble-head", f"{HEAD} --ensemble 3 --out ensemble-head"),
    Job("ensemble-blocks", f"{BLOCKS} --epochs 1 --ensemble 3 --combine min --out ensemble-blocks"),
    Job("early-stopping", f"{BLOCKS} --epochs 3 --early-stopping 2 --dropout 0.1 --out early-stopping"),
    Job("augment", f"{BLOCKS} --augment probes --out augment"),
    Job("init-from", f"{MORE} --out init-from", on=("blocks",)),
    Job("resume", f"{BLOCKS} --out blocks --resume", on=("blocks",), prepare=unfinish),
    Job("calibrate", f"calibrate head {OTHER}", on=("head",)),
    Job("evaluate", f"evaluate blocks {OTHER}", on=("blocks",)),
    Job("evaluate-ensemble", f"evaluate ensemble-head {OTHER}", on=("ensemble-head",)),
    Job("suites", f"evaluate blocks {CPU} --suite {IN}/lists.jsonl --suite {IN}/other.jsonl", on=("blocks",)),
    Job("score", f"score blocks {CPU} {SCORE}", on=("blocks",), statuses=(1,)),
    Job("score-bfloat16", f"score gemma --device cpu --dtype bfloat16 {SCORE}", on=("gemma",), statuses=(1,)),
    Job("score-ensemble", f"score ensemble-blocks {CPU} {SCORE}", on=("ensemble-blocks",), statuses=(1,)),
    Job("diff", f"diff head blocks {OTHER} --out diff", on=("head", "blocks"), statuses=(0, 5)),
    Job("curve", f"{CURVE} --out curve"),
    Job("ensemble", "ensemble head blocks --out ensemble", on=("head", "blocks")),
    Job("evaluate-joined", f"evaluate ensemble {OTHER}", on=("ensemble",)),
    Job("average", "average blocks augment --out average", on=("blocks", "augment")),
    Job("export", "export ensemble-blocks --member 1 --out export", on=("ensemble-blocks",)),
    Job("rescale", f"align-scale head blocks {CPU} --reference {IN}/other.jsonl --out rescale", on=("head", "blocks")),
    Job("probe", f"probe blocks {OTHER} --max-rows 60", on=("blocks",), statuses=(0, 6)),
    Job("drift", f"drift blocks {OTHER} {IN}/completions.jsonl", on=("blocks",)),
    Job("drift-fit", f"drift average {CPU} --fit --data {IN}/pairs.jsonl", on=("average",)),
    Job("attribute", f"attribute blocks {OTHER} --edits 60", on=("blocks",)),
    Job("best-of-n", f"best-of-n blocks {CPU} {BEST} --prompts 12", on=("blocks",)),
    Job("best-of-n-ensemble", f"best-of-n ensemble-head {CPU} {BEST} --prompts 8", on=("ensemble-head",)),
    Job("trust", f"trust blocks {CPU} --max-rows 20 --prompts 6 {WIDE}", on=("blocks",), statuses=(0, 7)),
    Job("verify", "verify blocks", on=("blocks",)),
)


def with_needs(only: Sequence[str]) -> list[Job]:
    """The jobs of these names and those that they build on, in order; all without a name. Raises ValueError for an unknown one."""
    if unknown := set(only) - {job.name for job in JOBS}:
        raise ValueError(f"--only {', '.join(sorted(unknown))}: use {', '.join(job.name for job in JOBS)}")
    wanted = set(only)
    for job in reversed(JOBS):
        wanted |= set(job.on) if job.name in wanted else set()
    return [job for job in JOBS if job.name in wanted or not only]


# The files


def write_inputs(folder: Path, tree: Path) -> None:
    """What serves both sides, once: two tiny random bases, and files of toy pairs and of the starter set."""
    if folder.exists():
        return
    work, starter, draw = folder.with_suffix(".part"), tree / "src/assay/data/starter", random.Random(0)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    path = os.pathsep.join(str(tree / part) for part in ("src", "tests"))
    for kind in ("llama", "gemma"):
        save = f"from pathlib import Path; from tiny import save_tiny_base; save_tiny_base(Path({kind!r}), {kind!r})"
        subprocess.run(
            [sys.executable, "-c", save], cwd=work, env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True
        )
    pairs = [json.loads(line) for line in (starter / "starter.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [labelled(pair, pair["axis"], preference=1.0) for pair in pairs]
    answers = [{"prompt": pair["prompt"], "response": pair[side]} for pair in pairs[440:480] for side in ("chosen", "rejected")]
    texts = [{"text": f"User: {pair['rejected']}\nAssistant: {pair['chosen']}"} for pair in pairs[480:490]]
    odd = [{"token_ids": list(range(5, 60))}, {"token_ids": []}, {"messages": pairs[500]["prompt"]}]
    choices = [(pair["prompt"], [pair["rejected"], pair["chosen"], "No."]) for pair in pairs[520:560]]
    files = {
        "pairs": pairs[:200] + toys(range(240), draw),
        "other": pairs[200:260] + toys(range(1000, 1120), draw),
        "more": pairs[300:360] + toys(range(2000, 2120), draw),
        "completions": answers + texts + odd,
        "lists": [{"prompt": prompt, "candidates": candidates, "correct": 1} for prompt, candidates in choices],
    }
    for name, rows in files.items():
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.copy(starter / "candidates.jsonl", work)
    work.rename(folder)


def toys(numbers: range, draw: random.Random) -> list[dict[str, Any]]:
    """Pairs that the word water wins against the word lazy, two to a prompt; some labels are ties, soft or wrong."""
    rows = []
    for number in numbers:
        chosen, rejected = (
            f"It is {word} {draw.choice(('over the dog', 'in the story', 'by a cat'))}." for word in ("water", "lazy")
        )
        row = {"id": f"toy-{number}", "prompt": f"Tell me about egg {number // 2}", "chosen": chosen, "rejected": rejected}
        label = draw.choices((1.0, 0.5, 0.8, 0.1), (12, 3, 3, 2))[0]
        margin, weight = draw.choice((None, 0.5, 2.0)), draw.choice((0.5, 1.0, 1.5))
        rows.append(labelled(row, f"egg {number % 3}", preference=label, margin=margin, weight=weight))
    return rows


def labelled(
    row: dict[str, Any], axis: str, *, preference: float, margin: float | None = None, weight: float = 1.0
) -> dict[str, Any]:
    """A row of Assay's own form."""
    kept = {name: row[name] for name in ("id", "prompt", "chosen", "rejected")}
    return kept | {"preference": preference, "margin": margin, "weight": weight, "source": "same", "tags": {"axis": axis}}


# Running them


@contextmanager
def start_tree(path: Path) -> Iterator[None]:
    """The start commit, checked out at `path` for a while."""
    git = ["git", "-C", str(HERE), "worktree"]
    shutil.rmtree(path, ignore_errors=True)  # of a run that was killed
    subprocess.run([*git, "add", "--quiet", "--force", "--detach", str(path), START], check=True)
    try:
        yield
    finally:
        subprocess.run([*git, "remove", "--force", str(path)], check=True)


def run_side(jobs: Sequence[Job], side: Side) -> None:
    """Run the jobs that have no results of a side yet."""
    began, todo = time.perf_counter(), [job for job in jobs if not is_done(job, side)]
    total = sum(run_job(job, side) for job in todo)
    took = f"{total:.0f} s of processor time, {time.perf_counter() - began:.0f} s in all"
    say(f"{side.folder.name}: {len(todo)} of {len(jobs)} jobs run, {took}")


def run_job(job: Job, side: Side) -> float:
    """Run a job in a folder of its own; done.json says how it ended and which files it wrote. Returns its processor time."""
    folder = side.folder / job.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for made in (side.folder / need / need for need in job.on):
        if made.is_dir():  # else this job fails as that one did
            shutil.copytree(made, folder / made.name)
    job.prepare(folder)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    command, *flags = job.words.split()
    arguments = [*side.words.get(command, command).split(), *(NEW_FLAGS.get(flag, flag) if side.words else flag for flag in flags)]
    status = run(arguments, side, folder)
    written = [file for file in sorted(folder.rglob("*")) if file.is_file() and before.get(file) != file.stat().st_mtime_ns]
    seconds = float((folder / "seconds").read_text())
    say(f"{side.folder.name} {job.name}: status {status}, {len(written)} files, {seconds:.1f} s")
    if status not in job.statuses:
        say("\n".join((folder / "log").read_text().splitlines()[-15:]))
    files = [str(file.relative_to(folder)) for file in written]
    (folder / "done.json").write_text(json.dumps({"stamp": stamp(job), "status": status, "files": files}, indent=1))
    return seconds


def run(arguments: Sequence[str], side: Side, folder: Path) -> int:
    """The exit status of a command of a side, run in `folder`, which gets its log and its seconds of processor time.

    In a process of its own, forked from one that has loaded the libraries and nothing of Assay: this saves half of the time.
    """
    server = get_context("forkserver")
    server.set_forkserver_preload(LIBRARIES)
    process = server.Process(target=command_line, args=(side.tree, list(arguments), folder))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def command_line(tree: Path, arguments: list[str], folder: Path) -> None:
    """`python -m assay.cli` with PYTHONPATH at the tree's src."""
    os.chdir(folder)
    with open("log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.path.insert(0, str(tree / "src"))
    sys.argv[1:] = arguments
    try:
        assert is_of(tree), f"assay is not imported from {tree}"
        runpy.run_module("assay.cli", run_name="__main__", alter_sys=True)
    finally:
        Path("seconds").write_text(str(time.process_time()))


def is_of(tree: Path) -> bool:
    found = importlib.util.find_spec("assay")
    return found is not None and Path(str(found.origin)).is_relative_to(tree)


def new_words(side: Side) -> dict[str, str]:
    """What the old commands are called on a side, by the commands that its help lists."""
    folder = side.folder / "help"
    folder.mkdir(parents=True)
    run(["--help"], side, folder)
    listed = set(re.findall(r"^\W*([a-z][a-z-]*)\b", (folder / "log").read_text(), re.MULTILINE))
    return {old: new for old, new in NEW_COMMANDS.items() if new.split()[0] in listed}


def stamp(job: Job) -> list[str]:
    """What the kept results of a job have to share with it."""
    return [START, job.words, *job.on, sys.version, *(version(name) for name in ("torch", "transformers", "numpy", "scikit-learn"))]


def is_done(job: Job, side: Side) -> bool:
    note = side.folder / job.name / "done.json"
    return note.is_file() and json.loads(note.read_text())["stamp"] == stamp(job)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
