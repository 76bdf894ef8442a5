"""The process reward models that others publish: how each joins steps, where it is read, what is computed there, and what for.

One entry a form, `FORMATS`. A form is told by the checkpoint's files where they say it without doubt, else it is asked for:
MODEL#FORM, such as org/name#math-shepherd. Separators, tags and names of tensors are facts that are named here; a publisher's
prompt is read from the model's own files or given by the user, and never copied. Neither torch nor transformers is needed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import parse_qsl, quote, urlencode

from assay.data.steps.step_layouts import StepLayout
from assay.models.published.weight_files import Stored, stored_tensors
from assay.stats.steps.step_reductions import Reduced

HeadKind = Literal["vocabulary", "labels", "value", "classes"]
StepValue = Literal["probability", "difference", "validity", "usefulness"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepForm:
    """A form whose steps are read in one forward.

    name: behind the # of a spec. models: hub ids that have it. layout: see `StepLayout`. head: "vocabulary", the rows of `good` and
    `bad` in the language model's output matrix; "labels", a head `score` of two labels, wrong and right; "value", a value head of
    one logit; "classes", a head `score_head` of three classes, bad, neutral and good. value: of a step: the probability of `good`
    or of the label right, that less the other one, neutral and good together, or all but neutral. reduction: of a solution;
    threshold: a step is right above it, as the publisher decides. architectures: names in config.json that say this form without
    doubt. prompt: what of the publisher's input is not in the model's files, "" for nothing. source: where this was read.
    """

    name: str
    models: tuple[str, ...]
    layout: StepLayout
    head: HeadKind
    value: StepValue = "probability"
    good: str = ""
    bad: str = ""
    reduction: Reduced
    threshold: float = 0.5
    architectures: tuple[str, ...] = ()
    prompt: str = ""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenForm:
    """A form whose verdicts are written: a language model that is asked about the steps (scorers/judges/step_verdicts).

    asks: "each step", a user's turn a step, each answered before the next one; or "whole solution", one reply with a verdict a
    step. good, bad: what a \\boxed{} holds. The rest is as in `StepForm`.
    """

    name: str
    models: tuple[str, ...]
    asks: Literal["each step", "whole solution"]
    good: str
    bad: str
    reduction: Reduced
    threshold: float = 0.5
    architectures: tuple[str, ...] = ()
    prompt: str = ""
    source: str


ProcessForm: TypeAlias = StepForm | WrittenForm

_RLHFLOW = ("RLHFlow/Llama3.1-8B-PRM-Mistral-Data", "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data")
_REASONEVAL = ("GAIR/ReasonEval-7B", "GAIR/ReasonEval-34B")
_REASONEVAL_PROMPT = "the publisher's words around the question (codes/examples.py of GAIR-NLP/ReasonEval)"
_MARKS = StepLayout(joined="text", mark=None, read="end of step", lead="\n", trims="\n")

FORMATS: Mapping[str, ProcessForm] = {
    form.name: form
    for form in (
        StepForm(
            name="math-shepherd",
            models=("peiyi9979/math-shepherd-mistral-7b-prm",),
            layout=StepLayout(joined="text", mark=" ки", lead=" ", between="\n"),
            head="vocabulary",
            good="+",
            bad="-",
            reduction="min",
            source="its model card (tag 12902, + 648, - 387); Wang et al. 2024, min over steps",
        ),
        StepForm(
            name="rlhflow",
            models=_RLHFLOW,
            layout=StepLayout(joined="turns", mark="+", read="before mark", lead=" ", ends="blank line"),
            head="vocabulary",
            good="+",
            bad="-",
            reduction="mean",
            source="math-rm/prm_evaluate.py of RLHFlow/RLHF-Reward-Modeling (logit -3, a forward a step)",
        ),
        StepForm(
            name="rlhflow-blank-line",
            models=(),
            layout=StepLayout(joined="turns", mark="+", read="before mark", lead="\n\n", ends="blank line"),
            head="vocabulary",
            good="+",
            bad="-",
            reduction="mean",
            source="code/run_eval_prm_rlhflow.py of QwenLM/ProcessBench: a blank line between question and first step",
        ),
        StepForm(
            name="qwen-math-prm",
            models=("Qwen/Qwen2.5-Math-PRM-7B", "Qwen/Qwen2.5-Math-PRM-72B", "Qwen/Qwen2.5-Math-7B-PRM800K"),
            layout=StepLayout(joined="answer", mark="<extra_0>", ends="blank line", trims="\n"),
            head="labels",
            reduction="product",
            architectures=("Qwen2ForProcessRewardModel",),
            source="its model card (system turn, <extra_0> behind each step); Zhang et al. 2025, product over steps",
        ),
        StepForm(
            name="skywork-o1",
            models=("Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B", "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B"),
            layout=StepLayout(joined="ids", mark="\n", lead="\n", trims="\n"),
            head="value",
            reduction="mean",
            architectures=("Qwen2ForPrmModel",),
            source="model_utils/io_utils.py and prm_model.py of SkyworkAI/skywork-o1-prm-inference (a sigmoid of the value head)",
        ),
        StepForm(
            name="trl",
            models=(),
            layout=StepLayout(joined="ids", mark="\n", trims="\n", holds_mark=True, ends="blank line"),
            head="labels",
            reduction="min",
            source="trl.PRMTrainer.tokenize_row up to its removal (trl #7133): ids of a step, then of its separator, a line break",
        ),
        StepForm(
            name="pure",
            models=("jinachris/PURE-PRM-7B", "jinachris/Qwen2.5-Math-7B-PRM800K"),
            layout=StepLayout(joined="ids", mark="\n", trims="\n", holds_mark=True, ends="blank line"),
            head="labels",
            value="difference",
            reduction="min",
            threshold=0.0,
            source="its model card, CJReinforce/PURE: p(right) - p(wrong), near the minimum over steps",
        ),
        StepForm(
            name="reasoneval",
            models=_REASONEVAL,
            layout=_MARKS,
            head="classes",
            value="validity",
            reduction="min",
            prompt=_REASONEVAL_PROMPT,
            source="codes/examples.py of GAIR-NLP/ReasonEval: neutral + good, min over steps",
        ),
        StepForm(
            name="reasoneval-redundancy",
            models=(),
            layout=_MARKS,
            head="classes",
            value="usefulness",
            reduction="min",
            threshold=0.85,
            prompt=_REASONEVAL_PROMPT,
            source="codes/examples.py of GAIR-NLP/ReasonEval: 1 - neutral, more is better (theirs: neutral, its maximum, 0.15)",
        ),
        WrittenForm(
            name="genprm",
            models=("GenPRM/GenPRM-1.5B", "GenPRM/GenPRM-7B", "GenPRM/GenPRM-32B"),
            asks="each step",
            good="Yes",
            bad="No",
            reduction="min",
            prompt="the publisher's system turn (src/prm_evaluation/prm_evaluate.py of RyanLiu112/GenPRM)",
            source="src/prm_evaluation of RyanLiu112/GenPRM: a turn a paragraph, softmax of Yes and No at the last \\boxed{}",
        ),
        WrittenForm(
            name="thinkprm",
            models=("launch/ThinkPRM-1.5B", "launch/ThinkPRM-7B", "launch/ThinkPRM-14B"),
            asks="whole solution",
            good="correct",
            bad="incorrect",
            reduction="min",
            prompt="the publisher's instruction around problem and solution (its model card)",
            source="its model card: one reply, a \\boxed{} a step, up to the first one that is wrong",
        ),
    )
}


class StepsAsked(NamedTuple):
    """What a user says of a process model, as it stands behind # in a spec: name?template=FILE&reduction=min&max_length=N.

    form: its name, "" where the files are to say it. template: see `StepRenderer`; for a written form a file with the text that is
    asked with. reduction: in place of the form's own.
    """

    form: str = ""
    template: str | None = None
    reduction: Reduced | None = None
    max_length: int | None = None


def read_steps_spec(text: str) -> StepsAsked:
    """`StepsAsked` of the text behind #. Raises ValueError, naming the known forms, for what is none."""
    name, _, query = text.partition("?")
    if name:
        named_form(name)
    try:
        given = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise ValueError(f"#{text}: settings are written as in #{name or 'trl'}?template=FILE&reduction=min") from None
    if unknown := set(given) - {"template", "reduction", "max_length"}:
        raise ValueError(f"#{text}: there is no setting {sorted(unknown)[0]!r}: use template, reduction or max_length")
    reduction, longest = given.get("reduction"), given.get("max_length")
    if reduction is not None and reduction not in get_args(Reduced):
        raise ValueError(f"#{text}: reduction {reduction!r} is none of {', '.join(get_args(Reduced))}")
    if longest is not None and not (longest.isdecimal() and int(longest) >= 8):
        raise ValueError(f"#{text}: max_length {longest!r} must be a number of tokens, at least 8")
    return StepsAsked(name, given.get("template"), reduction, None if longest is None else int(longest))  # type: ignore[arg-type]


def as_text(asked: StepsAsked) -> str:
    """What stands behind # for it."""
    given = {name: value for name, value in asked._asdict().items() if name != "form" and value is not None}
    return asked.form + (f"?{urlencode(given, quote_via=quote)}" if given else "")


def named_form(name: str) -> ProcessForm:
    """The form of that name. Raises ValueError naming those that there are."""
    if name not in FORMATS:
        raise ValueError(f"#{name} is no known form of process models: use one of {', '.join(FORMATS)} (docs/process-models.md)")
    return FORMATS[name]


def split_spec(spec: str | Path) -> tuple[str | Path, str]:
    """(the name of the model, what stands behind its #); a path that is there with its # is taken as it is."""
    text = str(spec)
    if "#" not in text or "://" in text or Path(text).exists():
        return spec, ""
    name, _, behind = text.partition("#")
    return (Path(name) if isinstance(spec, Path) else name), behind


def form_of_files(path: Path, spec: str = "") -> ProcessForm | None:
    """The form that a checkpoint has by its hub id or its files; None for what is no process model by them.

    spec: the name that was given. Raises ValueError for token classification, which TRL and PURE read in two ways.
    """
    if (known := next((form for form in FORMATS.values() if spec in form.models), None)) is not None:
        return known
    config = _config(path)
    names = set(config.get("architectures") or ())
    if (found := next((form for form in FORMATS.values() if names & set(form.architectures)), None)) is not None:
        return found
    tensors: Mapping[str, Stored] = stored_tensors(path) if list(path.glob("*.safetensors")) else {}
    if "score_head.weight" in tensors and tensors["score_head.weight"].shape[0] == 3:
        return FORMATS["reasoneval"]
    if any(name.endswith("ForTokenClassification") for name in names):
        raise ValueError(
            f"{spec or path} labels tokens ({min(names)}), and its files do not say how steps are joined: name it as "
            f"{spec or path}#trl (TRL's PRMTrainer, p(right)) or #pure (p(right) - p(wrong))"
        )
    return None


def _config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
