"""From the name of a generative model to its scorer: a directory or hub id, a name at an endpoint, or an artifact that was trained
here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.console import say
from assay.errors import ArtifactError
from assay.records import Dtype
from assay.rubrics.judge_settings import JudgeSettings
from assay.run_files import GENERATIVE, read_description
from assay.scorers.generative.critics import GenerativeAsked
from assay.scorers.generative.form_prompts import form_prompt
from assay.scorers.generative.generative import GenerativeComparer, GenerativeScorer, generative_scorer
from assay.scorers.generative.generative_forms import GenerativeForm, generative_form
from assay.scorers.generative.generative_lists import GenerativeLister
from assay.scorers.judges.open_judge import generator_of, merged_settings
from assay.scorers.judges.options import JudgeOptions

_DEADLINE = 600.0  # seconds of one reply: thousands of tokens


def open_generative(
    model: str | Path,
    form: GenerativeForm,
    asked: GenerativeAsked = GenerativeAsked(),  # noqa: B008  (immutable)
    options: JudgeOptions | None = None,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    ledger: Path | None = None,
) -> GenerativeScorer | GenerativeComparer | GenerativeLister:
    """The scorer of a form: a directory or hub id in this process, or its name at the endpoint that the options name.

    What is assumed is printed. Raises ValueError for a template or settings that cannot be used, and as `open_judge` does.
    """
    options = options or JudgeOptions()
    checkpoint = Path(model) if options.judge_url is None and Path(model).is_dir() else None
    critique = form.writes if asked.critique is None else asked.critique
    prompt = form_prompt(form, template=asked.template, checkpoint=checkpoint, critique=critique)
    settings = merged_settings(JudgeSettings(model=str(model), deadline=_DEADLINE), options)
    generator = generator_of(settings, options, dtype=dtype, device=device, max_tokens=max_tokens, ledger=ledger)
    scorer = generative_scorer(generator, prompt, asked)
    for what, how in scorer.assumed.items():
        say(what, how)
    return scorer


def open_trained(
    artifact: Path,
    asked: object = None,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    ledger: Path | None = None,
) -> GenerativeScorer | GenerativeComparer | GenerativeLister:
    """The scorer of an artifact that was trained here, asked as its reward.json says. asked: settings in place of that.

    Raises ValueError and ArtifactError as `trained_asked`.
    """
    how = trained_asked(artifact, asked)
    form = generative_form(how.form)
    return open_generative(artifact, form, how, dtype=dtype, device=device, max_tokens=max_tokens, ledger=ledger)


def trained_asked(artifact: Path, asked: object = None) -> GenerativeAsked:
    """How an artifact that was trained here is asked: as its reward.json says, with the settings of `asked` in place of that.

    Raises ValueError for another form than its own, ArtifactError for an entry that cannot be read.
    """
    own = asked_of(read_description(artifact), artifact)
    if asked is None:
        return own
    if not isinstance(asked, GenerativeAsked) or asked.form not in ("", own.form) or asked.template is not None:
        raise ValueError(f"{artifact} was trained as #{own.form}, with Assay's words: leave another form or template out")
    return asked.over(own)


def is_generative(description: Mapping[str, Any]) -> bool:
    """Whether a reward.json is that of a generative model."""
    return bool(description.get(GENERATIVE))


def generative_entry(asked: GenerativeAsked) -> dict[str, Any]:
    """The entry `generative` of reward.json: how a trained model is asked. Raises ValueError for a form that is not Assay's own."""
    if not generative_form(asked.form).is_own:
        raise ValueError(f"#{asked.form} is another publisher's form: models are trained on Assay's own")
    kept = {key: value for key, value in asked._asdict().items() if key != "template" and value is not None}
    return {"critique": True, "samples": 1, **kept}


def asked_of(description: Mapping[str, Any], path: object) -> GenerativeAsked:
    """How the model of a reward.json is asked. Raises ArtifactError, naming the entry, for one that cannot be read."""
    entry = description.get(GENERATIVE)
    known = set(GenerativeAsked._fields) - {"template"}
    if not isinstance(entry, dict) or "form" not in entry:
        raise ArtifactError(f"{path}: the entry {GENERATIVE!r} of reward.json has no form: it is damaged")
    if unknown := set(entry) - known:
        raise ArtifactError(
            f"{path}: the entry {GENERATIVE!r} of reward.json has {sorted(unknown)[0]!r}, which this Assay does not know"
        )
    try:
        generative_form(entry["form"])
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return GenerativeAsked(**entry)
