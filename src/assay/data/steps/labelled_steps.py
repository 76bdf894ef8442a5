"""A solution cut into steps, each with what is known of its being right: what process reward models are trained and measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from assay.messages import Messages, as_messages, prompt_key
from assay.records import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSteps:
    """One solution with a label for each of its steps.

    completion: with `steps`, S >= 1 of them. right: probability that each step is right, (S,): 1 or 0 as a plain label, between
    them as a soft one, None where nothing is known (as after the first error, unless the set says otherwise). outcome: 1 or 0, the
    final answer is right or wrong, None where it is not known. problem: what the prompt rewords, where a set has several wordings
    of one problem; the prompt itself when left out. source, id, tags: as in `PreferencePair`. Raises ValueError for labels that are
    no probabilities or not as many as steps.
    """

    completion: Completion
    right: tuple[float | None, ...]
    outcome: float | None = None
    problem: Messages = ()
    source: str = ""
    id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "problem", as_messages(self.problem))
        steps = self.completion.steps or ()
        if len(steps) != len(self.right) or not steps:
            raise ValueError(f"{len(self.right)} labels for {len(steps)} steps: give one for each, None where nothing is known")
        for label in (*self.right, self.outcome):
            if label is not None and not (math.isfinite(label) and 0.0 <= label <= 1.0):
                raise ValueError(f"label {label} is not a probability: give a value in [0, 1], or None where nothing is known")

    @property
    def prompt(self) -> Messages:
        """The problem, as messages."""
        return self.problem or self.completion.messages

    @property
    def prompt_key(self) -> str:
        """Hash of the problem's text alone: the unit of splitting and of clustered intervals."""
        return prompt_key(self.prompt)

    @property
    def first_error(self) -> int | None:
        """Index of the first step that is more likely wrong than right; None where no step is known to be."""
        return next((i for i, label in enumerate(self.right) if label is not None and label < 0.5), None)
