"""The generative reward models that others publish, and Assay's own: what each is asked, and how its verdict is read.

One entry a form, `FORMS`. Tags, words and scales are facts that are named here. A publisher's prompt is the publisher's text: it is
read from the model's own files or given by the user, never copied; a digest tells whether it is the published one. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Asks = Literal["one", "two", "several"]
Gives = Literal["choice", "score"]
Combine = Literal["mean", "vote", "sum"]
ANSWERS: Mapping[Asks, str] = {"one": "one answer", "two": "two answers", "several": "all answers to a prompt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerativeForm:
    """How a language model is asked about answers, and how its reply is read.

    name: behind the # of a spec. models: hub ids that have it. asks: about one answer, two, or all answers to a prompt in one
    call. gives: one of `words`, or a score in `scale` for each answer. words: the verdict's, as its tokens are: that of a good
    answer, or of the first one, first; a third one is a tie. verdict: pattern of a whole verdict, with what it says as the group
    `said`. spelled: how each word is written, as our own words ask for it where the publisher's prompt is not at hand. labels:
    what the answers are called. lead: what a reply is begun with where the verdict is read without a critique. writes: whether a
    critique stands before the verdict. hides: patterns of places where a reply repeats what it judges. quotes_verdict: whether
    the verdict itself stands in quotation marks, as in JSON. combine: of several replies, the mean probability or score, the
    share of votes, or the sum of scores. temperature: of several replies. prompt: what of the publisher's input is not in the
    model's files, "" for nothing. digests: of the normalised published prompts (see `form_prompts.prompt_digest`) -> where each
    stands. source: where all this was read.
    """

    name: str
    models: tuple[str, ...] = ()
    asks: Asks
    gives: Gives = "choice"
    words: tuple[str, ...] = ()
    scale: tuple[int, int] | None = None
    verdict: str
    spelled: tuple[str, ...]
    labels: tuple[str, ...] = ("A", "B")
    lead: str = ""
    writes: bool = True
    hides: tuple[str, ...] = ()
    quotes_verdict: bool = False
    combine: Combine = "mean"
    temperature: float = 1.0
    max_tokens: int = 2048
    prompt: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    source: str

    @property
    def is_own(self) -> bool:
        """Whether its prompt is Assay's own."""
        return self.name in OWN


OWN = ("assay-pointwise", "assay-pairwise")
_LINE = r"^[ \t*_#>-]*verdict[ \t*_]*:[ \t*_]*(?P<said>{words})(?!\w)"

FORMS: Mapping[str, GenerativeForm] = {
    form.name: form
    for form in (
        GenerativeForm(
            name="assay-pointwise",
            asks="one",
            words=("Yes", "No"),
            verdict=_LINE.format(words="yes|no"),
            spelled=("Verdict: Yes", "Verdict: No"),
            lead="Verdict:",
            max_tokens=512,
            source="Assay's own",
        ),
        GenerativeForm(
            name="assay-pairwise",
            asks="two",
            words=("A", "B"),
            verdict=_LINE.format(words="[ab]"),
            spelled=("Verdict: A", "Verdict: B"),
            lead="Verdict:",
            max_tokens=512,
            source="Assay's own",
        ),
    )
}


def generative_form(name: str) -> GenerativeForm:
    """The form of that name. Raises ValueError naming those that there are."""
    if name not in FORMS:
        raise ValueError(f"#{name} is no known form of generative models: use one of {', '.join(FORMS)} (docs/generative.md)")
    return FORMS[name]


def generative_form_of(spec: str) -> GenerativeForm | None:
    """The form of a model by its name: a published hub id, or a directory of that name; None where the name says nothing.

    Raises ValueError for a model that has several forms.
    """
    last = Path(spec.rstrip("/")).name.casefold()
    found = [form for form in FORMS.values() if any(last == model.split("/")[-1].casefold() for model in form.models)]
    if len(found) > 1:
        names = " or ".join(f"#{form.name} ({ANSWERS[form.asks]})" for form in found)
        raise ValueError(f"{spec} can be asked in several ways: name one, as {names} behind it (docs/generative.md)")
    return found[0] if found else None
