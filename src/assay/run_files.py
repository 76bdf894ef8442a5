"""What lies where in a run directory and in an artifact, and how it is found again. Neither torch nor transformers is needed.

RUN/config.json   RUN/eval/*.json   RUN/artifact/      a run directory
reward.json   train_prompts.npy   calibration_prompts.npy   words_baseline.npz   monitor/  eval/*.json  *.safetensors   an artifact
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assay.errors import ArtifactError
from assay.files import json_digest, locked, write_text
from assay.records import Report
from assay.wire import report_from_json, report_to_json

REWARD_FILE = "reward.json"
PROMPTS_FILE = "train_prompts.npy"
CALIBRATION_PROMPTS_FILE = "calibration_prompts.npy"
WORDS_FILE = "words_baseline.npz"  # the bag of words of the training pairs, by hashes; not part of the fingerprint
LOCK = "run.lock"  # in a run directory while a process trains in it: which one, on which machine, since when
LEDGER = "ledger.sqlite"  # of a judge's calls, beside its reports
METRICS, COMPLETIONS = "metrics.jsonl", "completions.jsonl"  # of a run: a line a step; best and worst answers of a policy
ANSWERS = "answers.jsonl"  # every answer that a policy was trained on, where they are kept
MONITOR = "monitor"  # folder of what drift is measured against; not part of the fingerprint
ENSEMBLE = "ensemble"  # the kind of a directory of members, and the entry that says how they are combined
CARD = "card"  # the entry that says what the model card says of a head that is no scalar reward
STEPS = "steps"  # the entry that says how a process reward model reads a solution; it decides its score
POSTERIOR = "posterior"  # folder and entry of how sure the head is of its rewards; it decides their std
GENERATIVE = "generative"  # the entry that says how a model that writes its verdict is asked; it decides its score
STEP_CALIBRATION = "step_calibration"  # the entry that says how the probabilities of steps were calibrated
ADOPTED = "adopted"  # the entry of an artifact made of another's model: where it came from, and what was assumed
UNKNOWN_PAST = "unknown_past"  # the entry of a model that was trained on from such a one
SCHEMA_VERSION = 1
_DECIDING = ("weights_digest", "template_digest", "max_length", "overlong", "dtype", "calibration")


class MemberScale(NamedTuple):
    """How a member's rewards are brought to the scale of all: (reward - centre) / unit. Both in units of that reward; unit > 0."""

    unit: float = 1.0
    centre: float = 0.0


def artifact_path(spec: str | Path) -> Path:
    """The artifact directory that `spec` is, or that the run directory `spec` holds. Raises ValueError when it is neither."""
    for path in (Path(spec), Path(spec) / "artifact"):
        if (path / REWARD_FILE).is_file():
            return path
    hint = f"; a function is named rule:{spec}" if re.fullmatch(r"[\w.]+:\w+", str(spec)) else ""
    if holds_checkpoint(spec):
        hint = f": it is another's checkpoint, of which assay model adopt {spec} --out DIRECTORY makes an artifact"
    raise ValueError(f"{spec} is neither an artifact (a directory with {REWARD_FILE}) nor a run directory that holds one{hint}")


def holds_artifact(spec: str) -> bool:
    """Whether a word of a command line is an artifact or a run directory."""
    return any((path / REWARD_FILE).is_file() for path in (Path(spec), Path(spec) / "artifact"))


def holds_checkpoint(spec: str | Path) -> bool:
    """Whether the name is a directory with a model of transformers' form, and no artifact. Its weights are not looked at."""
    file = Path(spec) / "config.json"
    if not file.is_file() or holds_artifact(str(spec)):
        return (Path(spec) / "adapter_config.json").is_file()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and ("model_type" in content or "architectures" in content)


def may_be_hub_id(spec: str | Path) -> bool:
    """Whether text has the form ORGANISATION/NAME and no such path is here. Never a Path, which may come from a request."""
    if not isinstance(spec, str) or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec) is None:
        return False
    return not Path(spec).exists() and not Path(spec).parent.exists()


def model_name(artifact: Path) -> str:
    """The name of a model: that of its directory, or of the run around it."""
    resolved = artifact.resolve()
    return resolved.parent.name if resolved.name == "artifact" else resolved.name


def read_description(path: str | Path) -> dict[str, Any]:
    """The content of reward.json. Raises ArtifactError when it is missing, not JSON or of a newer schema."""
    file = Path(path) / REWARD_FILE
    if not file.is_file():
        raise ArtifactError(f"{path} holds no {REWARD_FILE}: it is not an artifact of Assay")
    try:
        description = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{file} is not JSON ({error}): the artifact is damaged") from error
    if not isinstance(description, dict):
        raise ArtifactError(f"{file} is not a JSON object: the artifact is damaged")
    if description.get("schema_version", 0) > SCHEMA_VERSION:
        raise ArtifactError(
            f"{file} has schema {description['schema_version']}, this Assay reads {SCHEMA_VERSION}: upgrade assay-rm"
        )
    missing = {"fingerprint", *_DECIDING} - description.keys()
    if missing:
        raise ArtifactError(f"{file} lacks {', '.join(sorted(missing))}: the artifact is damaged")
    return description


def saved_scales(description: Mapping[str, Any]) -> list[MemberScale]:
    """The scale of each member; one without a change for a single model. Those of ensembles from before scales were kept have
    none either."""
    ensemble = description.get(ENSEMBLE) or {"members": 1}
    return [MemberScale(*scale) for scale in ensemble.get("scales", ())] or [MemberScale()] * int(ensemble["members"])


def write_description(path: str | Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Write reward.json with the fingerprint brought up to date, by rename, and return its content."""
    full = {**description, "fingerprint": fingerprint(description)}
    write_text(Path(path) / REWARD_FILE, json.dumps(full, indent=1, ensure_ascii=False, allow_nan=False))
    return full


def fingerprint(description: Mapping[str, Any]) -> str:
    """Digest of what decides a score: weights, template, length policy, saved dtype, calibration, how members are combined, how
    steps are read, how a generative model is asked, and the posterior that gives a std."""
    parts = [description.get(part) for part in _DECIDING]
    parts += [description[part] for part in (ENSEMBLE, STEPS, GENERATIVE, POSTERIOR) if description.get(part)]
    return json_digest(parts)


def uncalibrated_fingerprint(path: str | Path) -> str:
    """Fingerprint of an artifact as if it were not calibrated and had no posterior: they change neither values nor states."""
    return fingerprint({**read_description(path), "calibration": None, POSTERIOR: None})


def refuse_existing(out: Path) -> None:
    """Raises ValueError when `out` is there and is no empty directory: a saved model is never replaced by another in silence."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty directory: name a new one")


@contextmanager
def only_run(run: Path) -> Iterator[None]:
    """Hold a run directory for this process, so that no other one trains in it; its lock file is gone afterwards.

    The lock ends with the process, however that ends: what a killed one left is taken over. Of another machine that shares the
    directory it cannot be seen whether its process lives. Raises ValueError, naming process and machine, where another one holds
    it. Where there are no such locks (Windows) nothing is held.
    """
    path, is_new, here = run / LOCK, not run.exists(), platform.node()
    holder = _holder(path)
    by = f"process {holder.get('pid', '?')} on {holder.get('host', here)}, since {holder.get('since', 'now')}"
    ways = "give another --out"
    if holder.get("host", here) != here:
        raise ValueError(f"{run} is in use by {by}: {ways}, wait for it, or delete {path} if it runs no more")
    hold = locked(path, busy=f"{run} is in use by {by}: {ways}, or wait for it to end") if find_spec("fcntl") else nullcontext()
    try:
        with hold:
            if find_spec("fcntl"):
                note = {"pid": os.getpid(), "host": here, "since": datetime.now(UTC).isoformat(" ", "seconds")}
                path.write_text(json.dumps(note), encoding="utf-8")
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        if is_new:
            with suppress(OSError):  # it holds what was made, or was not made
                run.rmdir()


def _holder(path: Path) -> dict[str, Any]:
    """What a lock file says of who wrote it; nothing where there is none, or it is just being written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def prompt_file(artifact: Path, name: str = PROMPTS_FILE) -> np.ndarray | None:
    """Sorted hashes (uint64) of the prompts that an artifact was trained on (PROMPTS_FILE) or calibrated on
    (CALIBRATION_PROMPTS_FILE); None when the artifact does not say."""
    return np.load(artifact / name, allow_pickle=False) if (artifact / name).is_file() else None


def words_file(artifact: Path) -> Path | None:
    """The bag of words that was kept beside an artifact (of an ensemble of files, beside its first member); None for none."""
    places = (artifact / WORDS_FILE, artifact / "members" / "0" / WORDS_FILE)
    return next((file for file in places if file.is_file()), None)


def write_report(home: Path, name: str, report: Report) -> Path:
    """Keep a report as eval/NAME.json below a run directory, an artifact or another directory; returns the file."""
    path = home / "eval" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, report_to_json(report))
    return path


def read_report(home: Path, name: str) -> Report | None:
    """The report that was kept as eval/NAME.json; None when there is none."""
    file = home / "eval" / f"{name}.json"
    return report_from_json(file.read_text(encoding="utf-8")) if file.is_file() else None
