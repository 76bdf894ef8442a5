"""What Assay does on one GPU: rewards right, training and scoring fast, service under load. Last line: one JSON document.

python benchmarks/gpu.py                    # a Llama shape of about 1B parameters, at most 9 minutes on a Hopper card
python benchmarks/gpu.py --size tiny --device cpu --seconds 60      # the same code on a CPU, in its tests

Weights are random and text is drawn, so nothing is downloaded. Needed are torch, transformers and what Assay itself imports; peft
for `lora`, trl for its rival, and fastapi, uvicorn and httpx2 for the service: a part that misses one says so, the others run.
Every part is a process of its own, so that its memory is its own, with a clock of its own: a part that is too slow is cut, what it
had found until then is kept, and the others still run.

Claims, written before it was run on a card:
- parity: FlexAttention over shared prompts and plain transformers, one sequence at a time, give the same rewards: within 1e-3 in
  float32, and in bfloat16 within what bfloat16 itself differs from float32 by.
- training: `full` takes at least 1.0 times TRL's pairs a second at no more memory (prompts are computed once), at .40 of the card's
  rate of bfloat16 products or more; a cached epoch of `blocks:4` at least 4 times `full`.
- scoring: 16 answers to a prompt of twice their length at 3 times padded rows or more; 5 heads at .95 of one model's rate.
- policy: a step of rloo draws at least as many tokens a second as TRL's RLOO trainer with transformers' own generation.
- FSDP2 in one process gives the losses of the plain step, within 1e-3.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A measure in a process of its own. seconds: after which it is cut. figures: those that the table shows, in order."""

    name: str
    seconds: float
    figures: tuple[str, ...]


POLICY = ("tokens_per_second", "seconds_per_step", "peak_gb")
TRAINED = ("pairs_per_second", "tokens_per_second", "peak_gb", "share_of_matmul_rate")
PARTS = (
    Part(name="device", seconds=30, figures=("name", "matmul_tflops")),
    Part(name="parity", seconds=60, figures=("attention", "float32_difference", "bfloat16_difference", "bfloat16_of_plain")),
    Part(name="train-full", seconds=70, figures=TRAINED),
    Part(name="train-trl", seconds=70, figures=TRAINED),
    Part(name="train-blocks", seconds=60, figures=(*TRAINED, "caching_pairs_per_second")),
    Part(name="train-lora", seconds=60, figures=TRAINED),
    Part(name="score", seconds=70, figures=("best_of_16", "groups_of_8", "lone", "over_padded_rows")),
    Part(name="ensemble", seconds=50, figures=("heads_5", "blocks_5")),
    Part(name="serve", seconds=80, figures=("callers_64", "callers_256", "p99_64", "p99_256")),
    Part(name="policy", seconds=50, figures=(*POLICY, "share_drawing", "share_updating")),
    Part(name="policy-trl", seconds=50, figures=POLICY),
    Part(name="fsdp", seconds=50, figures=("largest_loss_difference", "pairs_per_second", "peak_gb")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=("tiny", "half", "one"), default="one", help="parameters of the model, about")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=530.0, help="of all parts together")
    parser.add_argument("--only", nargs="*", choices=[part.name for part in PARTS], default=None)
    parser.add_argument("--part", help="one part in this process (used by the benchmark itself)")
    parser.add_argument("--work", type=Path, help="where that part leaves what it has found so far")
    asked = parser.parse_args()
    if asked.part:
        sys.path.insert(0, str(HERE))
        from gpu_parts import measure

        measure(asked.part, asked.size, asked.device, asked.work)
        return 0
    began = time.perf_counter()
    found = run_parts(asked, began)
    print(table(found), file=sys.stderr)
    document = {"size": asked.size, "device": asked.device, "parts": found, "ratios": ratios(found)}
    print(json.dumps({**document, "seconds": round(time.perf_counter() - began, 1)}))
    return 0


def run_parts(asked: argparse.Namespace, began: float) -> dict[str, dict[str, Any]]:
    """Each part until its own clock or that of all runs out."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for part in PARTS:
            if asked.only and part.name not in asked.only:
                continue
            left = asked.seconds - (time.perf_counter() - began)
            if left < 5:
                found[part.name] = {"not_run": "the time for all parts was over"}
                continue
            found[part.name] = run_part(part, asked, Path(directory) / part.name, min(part.seconds, left))
            print(f"{part.name:<13} {found[part.name]}", file=sys.stderr, flush=True)
    return found


def run_part(part: Part, asked: argparse.Namespace, work: Path, seconds: float) -> dict[str, Any]:
    """What a part found, also when it was cut or failed on the way: it writes every figure as soon as it has it."""
    work.mkdir()
    command = [sys.executable, __file__, "--part", part.name, "--size", asked.size, "--device", asked.device, "--work", str(work)]
    source = os.pathsep.join(filter(None, (str(HERE.parent / "src"), os.environ.get("PYTHONPATH", ""))))
    started = time.perf_counter()
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": source}, start_new_session=True
        )
        try:
            status: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
            end(process)
    file = work / "found.json"
    figures: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if status is None:
        figures["cut"] = f"after {seconds:.0f} s"
    elif status:
        lines = (work / "log").read_text(errors="replace").strip().splitlines()
        figures["failed"] = lines[-1][:300] if lines else f"exit status {status}"
    return {**figures, "seconds": round(time.perf_counter() - started, 1)}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part that was too slow: first so that it can close what it started, such as a service, then in any case."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The comparisons that the claims are about, as far as both sides were measured."""
    wanted = {
        "full over TRL, pairs per second": ("train-full", "train-trl", "pairs_per_second"),
        "full over TRL, peak memory": ("train-full", "train-trl", "peak_gb"),
        "blocks, cached epoch over full": ("train-blocks", "train-full", "pairs_per_second"),
        "lora over full": ("train-lora", "train-full", "pairs_per_second"),
        "policy over TRL, tokens per second": ("policy", "policy-trl", "tokens_per_second"),
        "fsdp in one process over full": ("fsdp", "train-full", "pairs_per_second"),
    }
    sides = {name: (found.get(a, {}).get(figure), found.get(b, {}).get(figure)) for name, (a, b, figure) in wanted.items()}
    return {name: round(a / b, 3) for name, (a, b) in sides.items() if a and b}


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line a part: its main figures, or why there are none."""
    lines = []
    for part in PARTS:
        figures = found.get(part.name)
        if figures is None:
            continue
        shown = [f"{name} {_short(figures[name])}" for name in part.figures if name in figures]
        said = [f"{name}: {figures[name]}" for name in ("not_run", "cut", "failed") if name in figures]
        lines.append(f"{part.name:<13} {figures.get('seconds', 0):>6} s  {'; '.join([*shown, *said])}")
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
