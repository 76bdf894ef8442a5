"""From a name to a Scorer. Torch is imported only where a model is loaded into this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from assay.models.bases import fetch
from assay.models.published.published_steps import StepsAsked, WrittenForm, form_of_files, named_form
from assay.records import Dtype
from assay.rubrics.shipped import why_no_rubric
from assay.run_files import POSTERIOR, artifact_path, holds_artifact, holds_checkpoint, may_be_hub_id, read_description
from assay.scorers.base import Scorer
from assay.scorers.form_specs import form_asked, refuse_form, written_form
from assay.scorers.generative.critics import GenerativeAsked
from assay.scorers.generative.generative_forms import GenerativeForm, generative_form, generative_form_of
from assay.scorers.generative.open_generative import is_generative, open_generative, open_trained
from assay.scorers.http.engine_api import Remote, printable_url
from assay.scorers.http.remote import RemoteScorer
from assay.scorers.judges.open_judge import is_judge, open_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.rules import RULE, load_rule
from assay.scorers.verifiers.confined import RunCode
from assay.scorers.wrappers.cached import Cached

if TYPE_CHECKING:
    from assay.scorers.ensemble import Combination

RECORDED = "recorded:"
_URL = re.compile(r"(?:(?P<engine>vllm|sglang|tei|openrlhf)\+)?(?P<scheme>https?):/+(?P<rest>.+)")  # a Path has one slash left


def load(
    spec: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    combination: Combination | None = None,
    cache: str | Path | None = None,
    artifact: str | Path | None = None,
    judge: JudgeOptions | None = None,
    ledger: Path | None = None,
    run_code: RunCode = "never",
    format: str | None = None,
) -> Scorer:
    """The scorer that `spec` names: an artifact directory, a run directory that holds one, another's reward model (a directory of
    transformers' form, or a hub id), the URL of a service, a rule, or a rubric (a file, or a shipped one's name) for a judge.

    Of another's reward model all that had to be assumed is printed (docs/adopt.md). A process model of others whose files do not
    say how it joins steps is named with its form, as in org/name#math-shepherd, or by `format` (docs/process-models.md).
    http://HOST:PORT is Assay's own service (see `RemoteScorer`). vllm+http://, sglang+http://, tei+http:// and openrlhf+http:// are
    engines; `artifact`, or a path behind # in the URL, names the artifact that the engine serves: its chat template and tokenizer
    then render what is scored, and without it engines take rendered texts (vLLM plain conversations too). rule:NAME is a
    built-in rule (docs/rules.md), rule:MODULE:FUNCTION a plain Python function (see `RuleScorer`); its code is run, so never take
    such a name from a file or a request. recorded:FOLDER#JUDGE replays the verdicts of a judge that others recorded (see
    `RecordedJudge`). dtype, device, max_tokens and combination are for directories only. run_code: whether rule:tests may run the
    code of answers, "sandboxed" (in bubblewrap alone) or "unsandboxed".

    `score` gives raw rewards, whether or not the artifact is calibrated; `prefer` uses the calibration if there is one.
    dtype, device: "auto" picks what suits the machine. max_tokens: token budget of one forward. combination: how an ensemble's
    members become one reward, instead of the saved way; the saved calibration does not apply to it and is then left out.
    cache: an SQLite file of cached rewards (see `Cached`). judge: what a rubric's [judge] does not say, or is to say instead (see
    `JudgeOptions` and docs/judges.md); ledger: the file of its calls, unless judge names one; in memory when left out.
    Raises ValueError for a name that is none of these, ArtifactError for an artifact that is damaged.
    """
    if is_judge(spec):
        if combination is not None or artifact is not None:
            raise ValueError(f"{spec} is a rubric: combination and artifact are for reward models; leave them out")
        asked: Scorer = open_judge(spec, judge, dtype=dtype, device=device, max_tokens=max_tokens, ledger=ledger, run_code=run_code)
        return asked if cache is None else Cached(asked, cache)
    if (told := _behind_endpoint(spec, format, judge, ledger)) is not None:
        return told if cache is None else Cached(told, cache)
    if judge is not None and judge != JudgeOptions():
        raise ValueError(why_no_rubric(printable_url(str(spec)), flags="judge= and the flags of a judge"))
    if not is_directory(spec):
        if (dtype, device, max_tokens, combination) != ("auto", "auto", None, None):
            raise ValueError(
                f"{printable_url(str(spec))} is not computed from a directory: leave dtype, device, max_tokens and combination out"
            )
        if (is_rule(spec) or is_recorded(spec)) and artifact is not None:
            raise ValueError(f"{spec} is no engine: leave artifact out")
        named = _recorded(str(spec)) if is_recorded(spec) else _rule_or_remote(str(spec), artifact, run_code)
        return named if cache is None else Cached(named, cache)
    if artifact is not None:
        raise ValueError(f"{spec} is an artifact itself: artifact is for the URL of an engine that serves one; leave it out")
    spec, asked_form = form_asked(spec, format)
    if combination is not None and _is_one_model(spec):
        raise ValueError(f"{spec} is one model, not an ensemble: leave combination out")
    if (checkpoint := checkpoint_path(spec)) is not None:
        scorer: Scorer = _of_others(checkpoint, str(spec), asked_form or StepsAsked(), dtype, device, max_tokens, ledger)
    elif is_generative(read_description(artifact_path(spec))):
        scorer = open_trained(artifact_path(spec), asked_form, dtype=dtype, device=device, max_tokens=max_tokens, ledger=ledger)
    else:
        refuse_form(spec, asked_form)
        scorer = with_posterior(_raw(artifact_path(spec), dtype, device, max_tokens, combination), artifact_path(spec))
    scorer = Cached(scorer, cache) if cache is not None else scorer  # the cache holds rewards, so it goes inside `Calibrated`
    return scorer if combination is not None or checkpoint is not None else with_calibration(scorer, artifact_path(spec))


def _raw(path: Path, dtype: Dtype, device: str, max_tokens: int | None, combination: Combination | None) -> Scorer:
    from assay.scorers.local import load_raw  # imports torch

    return load_raw(path, dtype=dtype, device=device, max_tokens=max_tokens, combination=combination)


def with_posterior(scorer: Scorer, artifact: Path) -> Scorer:
    """The scorer of an artifact with the std of its rewards, if a posterior of its head was fitted."""
    if not read_description(artifact).get(POSTERIOR):
        return scorer
    from assay.models.saved.posterior_files import load_posterior
    from assay.scorers.wrappers.head_std import HeadStd

    saved = load_posterior(artifact)
    assert saved is not None
    identity = f"{saved.entry['digest']}/{saved.reference}"
    return HeadStd(scorer, saved.posterior, reference=saved.reference, identity=identity)


def with_calibration(scorer: Scorer, artifact: Path) -> Scorer:
    """The scorer of an artifact with the calibration that was saved there, if one was."""
    from assay.scorers.wrappers.calibrated import Calibrated, Calibration  # imports scikit-learn

    calibration = read_description(artifact).get("calibration")
    return scorer if calibration is None else Calibrated(scorer=scorer, calibration=Calibration.from_json(calibration))


def _behind_endpoint(spec: str | Path, format: str | None, judge: JudgeOptions | None, ledger: Path | None) -> Scorer | None:
    """A model that writes its verdicts, at the endpoint that the options name; None for anything else."""
    if judge is None or judge.judge_url is None or not is_directory(spec) or (writes := written_form(spec, format)) is None:
        return None
    name, form, asked = writes
    if isinstance(form, GenerativeForm) and isinstance(asked, GenerativeAsked):
        return open_generative(name, form, asked, judge, ledger=ledger)
    from assay.scorers.judges.step_verdicts import open_step_verdicts

    assert isinstance(form, WrittenForm)
    assert isinstance(asked, StepsAsked)
    return open_step_verdicts(name, form, asked, judge, ledger=ledger)


def _of_others(
    checkpoint: Path,
    spec: str,
    asked: StepsAsked | GenerativeAsked,
    dtype: Dtype,
    device: str,
    max_tokens: int | None,
    ledger: Path | None,
) -> Scorer:
    """Another's checkpoint as it lies there: a generative or a process model by its form, or a reward model of one reward."""
    if (generative := _generative(spec, asked)) is not None:
        how = asked if isinstance(asked, GenerativeAsked) else GenerativeAsked()
        return open_generative(checkpoint, generative, how, dtype=dtype, device=device, max_tokens=max_tokens, ledger=ledger)
    assert isinstance(asked, StepsAsked)
    form = named_form(asked.form) if asked.form else form_of_files(checkpoint, spec)
    if isinstance(form, WrittenForm):
        from assay.scorers.judges.step_verdicts import open_step_verdicts

        return open_step_verdicts(checkpoint, form, asked, dtype=dtype, device=device, max_tokens=max_tokens, ledger=ledger)
    if form is not None:
        from assay.scorers.steps.step_models import load_step_model  # imports torch

        return load_step_model(checkpoint, form, asked, dtype=dtype, device=device, max_tokens=max_tokens)
    if asked != StepsAsked():
        raise ValueError(f"{checkpoint}: template, reduction and max_length are settings of a process model: name its form too")
    from assay.scorers.local import load_unadopted  # imports torch

    return load_unadopted(checkpoint, dtype=dtype, device=device, max_tokens=max_tokens)


def _generative(spec: str, asked: StepsAsked | GenerativeAsked) -> GenerativeForm | None:
    """The form of a generative model: the one that is named, else the one that the model's name says; None for other models."""
    if isinstance(asked, GenerativeAsked) and asked.form:
        return generative_form(asked.form)
    return generative_form_of(spec) if isinstance(asked, GenerativeAsked) or asked == StepsAsked() else None


def _is_one_model(spec: str | Path) -> bool:
    """Whether the name is another's checkpoint or a generative model, which have no members to combine."""
    if holds_artifact(str(spec)):
        return is_generative(read_description(artifact_path(spec)))
    return holds_checkpoint(spec) or may_be_hub_id(spec)


def checkpoint_path(spec: str | Path) -> Path | None:
    """The directory of another's checkpoint that `spec` names, fetched from the hub where it is a hub id; None for anything else.

    Raises ValueError for a hub id that cannot be fetched.
    """
    if holds_artifact(str(spec)):
        return None
    if holds_checkpoint(spec):
        return Path(spec)
    return fetch(str(spec)) if may_be_hub_id(spec) else None


def is_rule(spec: str | Path) -> bool:
    """Whether the name is that of a rule. Only text is: a Path may come from a file or a request."""
    return isinstance(spec, str) and spec.startswith(RULE)


def is_recorded(spec: str | Path) -> bool:
    """Whether the name is that of recorded verdicts, recorded:FOLDER#JUDGE."""
    return str(spec).startswith(RECORDED)


def is_directory(spec: str | Path) -> bool:
    """Whether the name is a directory on this machine: neither a rule, nor a rubric, nor a URL, nor recorded verdicts."""
    return not (is_rule(spec) or is_judge(spec) or is_recorded(spec)) and _URL.fullmatch(str(spec)) is None


def _rule_or_remote(spec: str, artifact: str | Path | None, run_code: RunCode) -> Scorer:
    return load_rule(spec, run_code=run_code) if is_rule(spec) else _remote(spec, artifact)


def _recorded(spec: str) -> Scorer:
    from assay.data.recorded import read_recorded
    from assay.scorers.recorded_judge import RecordedJudge

    folder, _, judge = spec.removeprefix(RECORDED).partition("#")
    recorded = read_recorded(folder)
    if not judge:
        raise ValueError(f"{spec} names no judge: write {RECORDED}{folder}#NAME, one of {', '.join(recorded.judges)}")
    return RecordedJudge(recorded, judge)


def _remote(url: str, artifact: str | Path | None) -> RemoteScorer:
    address, _, named = url.partition("#")
    if named and artifact is not None:
        raise ValueError(f"artifact {artifact} and {named} behind # in the URL: give one of them")
    parts = _URL.fullmatch(address)
    assert parts is not None
    engine = cast(Remote, parts["engine"] or "assay")
    return RemoteScorer(f"{parts['scheme']}://{parts['rest']}", engine=engine, artifact=artifact or named or None)
