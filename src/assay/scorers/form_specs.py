"""What stands behind the # of a model's name: the form of a process model or of a generative one, and how it is asked."""

from __future__ import annotations

from pathlib import Path

from assay.models.published.published_steps import (
    FORMATS,
    StepsAsked,
    WrittenForm,
    named_form,
    read_steps_spec,
    split_spec,
)
from assay.run_files import artifact_path, holds_artifact, read_description
from assay.scorers.generative.critics import GenerativeAsked, read_generative_spec
from assay.scorers.generative.generative_forms import FORMS, GenerativeForm, generative_form, generative_form_of
from assay.scorers.generative.open_generative import is_generative


def form_asked(spec: str | Path, format: str | None) -> tuple[str | Path, StepsAsked | GenerativeAsked | None]:
    """(the name of the model, its form and how it is asked, None for nothing). Raises ValueError for a form that is given twice,
    one that there is not, and settings that are none."""
    name, behind = split_spec(spec)
    if behind and format is not None:
        raise ValueError(f"{spec} and format {format!r} both name a form: give one of them")
    text = behind or format
    if text is None:
        return name, None
    form = text.partition("?")[0]
    if form and form not in FORMATS and form not in FORMS:
        known = f"process models have {', '.join(FORMATS)} (docs/process-models.md), generative ones {', '.join(FORMS)}"
        raise ValueError(f"#{form} is no known form: {known} (docs/generative.md)")
    if form in FORMS or (not form and _is_asked(name)):
        return name, read_generative_spec(text)
    return name, read_steps_spec(text)


def _is_asked(name: str | Path) -> bool:
    """Whether a name without a form is that of a generative model: settings behind it are then those of one."""
    if holds_artifact(str(name)):
        return is_generative(read_description(artifact_path(name)))
    return generative_form_of(str(name)) is not None


def written_form(
    spec: str | Path, format: str | None
) -> tuple[str, WrittenForm, StepsAsked] | tuple[str, GenerativeForm, GenerativeAsked] | None:
    """(name of the model, its form, how it is asked) of a model that writes its verdicts; None for anything else.

    spec: a directory, a hub id, or the name at an endpoint."""
    name, asked = form_asked(spec, format)
    if isinstance(asked, GenerativeAsked):
        generative = generative_form(asked.form) if asked.form else generative_form_of(str(name))
        return None if generative is None else (str(name), generative, asked)
    if asked is None:
        if holds_artifact(str(name)):
            return None
        published = generative_form_of(str(name))
        return None if published is None else (str(name), published, GenerativeAsked())
    form = None if not asked.form else named_form(asked.form)
    return (str(name), form, asked) if isinstance(form, WrittenForm) else None


def refuse_form(spec: str | Path, asked: StepsAsked | GenerativeAsked | None) -> None:
    """Raises ValueError for a form of others' models behind the name of something else."""
    if asked is not None:
        raise ValueError(f"{spec} is no checkpoint of others, whose form #{asked.form} would be: leave the form out")
