"""Rewards of steps from an engine that serves a process artifact: vLLM's labels of all tokens, taken where the steps end.

The artifact's own renderer makes the tokens, laid out as its publisher does where it was adopted, so that an engine gives what the
artifact gives in this process. No torch here. Shapes: N solutions, T tokens, R steps of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.errors import EngineError
from assay.records import Completion, Rewards
from assay.scorers.http.engine_api import Remote, read_token_labels

if TYPE_CHECKING:
    from assay.data.steps.laid_out import LaidOutRenderer
    from assay.data.tokens.render import Rendered, Renderer
    from assay.models.saved.step_policy import StepPolicy

WHY_NOT = {
    "sglang": "SGLang answers one embedding of a text, and has no route for the labels of its tokens",
    "tei": "text-embeddings-inference classifies whole texts, and has no route for the labels of their tokens",
    "openrlhf": "OpenRLHF's server answers one reward of a text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSteps:
    """How the steps of an artifact are asked for. renderer, policy: the artifact's."""

    renderer: Renderer | LaidOutRenderer
    policy: StepPolicy

    def identity(self) -> list[Any]:
        """What the rewards depend on beside the engine."""
        return [self.policy.entry(), self.renderer.template, self.renderer.settings()]

    def rendered(self, completions: Sequence[Completion]) -> tuple[list[Completion], list[Rendered]]:
        """The completions in steps, and their tokens up to the last step that is read."""
        from assay.data.tokens.render import LOST
        from assay.scorers.steps.step_rewards import without_rendered

        cut = self.policy.in_steps(completions)
        found = without_rendered(cut, self.renderer.render(cut))
        whole = [item if item.error else item._replace(tokens=item.tokens[: item.reward_positions.max() + 1]) for item in found]
        assert all(item.error or item.reward_positions.max() > LOST for item in whole)
        return cut, whole

    def rows(self, reply: Any, token_ids: Sequence[tuple[int, ...]], address: str) -> list[dict[str, Any]]:
        """What an answer says of N texts: `log_odds` (T,) of right against wrong at each token. Raises EngineError."""
        found = read_token_labels(reply, token_ids, address)
        if wrong := next((logits.shape[1] for logits in found if logits.shape[1] != 2), None):
            raise EngineError(f"{address} gives {wrong} numbers a token, and the artifact has two labels: check the served model")
        return [{"log_odds": logits[:, 1] - logits[:, 0]} for logits in found]

    def rewards(self, rows: Sequence[dict[str, Any]], completions: Sequence[Completion], rendered: Sequence[Rendered]) -> Rewards:
        """N rewards with their steps from N rows, each with `log_odds` or why there are none."""
        from assay.data.tokens.render import LOST, Rendered
        from assay.scorers.steps.step_rewards import step_rewards

        empty, found, items = np.empty(0, np.int32), [], []
        for row, item in zip(rows, rendered, strict=True):
            if "log_odds" not in row:
                items.append(Rendered(empty, empty, error=item.error or str(row["error"])))
                continue
            items.append(item)
            places = item.reward_positions
            found.append(np.where(places == LOST, np.nan, row["log_odds"][places]))
        log_odds_R = np.concatenate([*found, np.empty(0)])
        return step_rewards(log_odds_R, completions, items, self.policy)


def engine_steps(engine: Remote, artifact: str | Path | None) -> EngineSteps | None:
    """How an engine is asked for the steps of the artifact that it serves; None without one, and for one that gives one reward.

    Raises ValueError for an engine that cannot give them.
    """
    if artifact is None or engine == "assay":
        return None
    from assay.models.saved.artifact_renderer import step_renderer_of  # imports transformers

    found = step_renderer_of(artifact)
    if found is None:
        return None
    if engine in WHY_NOT:
        raise ValueError(
            f"{artifact} rewards steps. {WHY_NOT[engine]}: serve it with vLLM (--runner pooling, then vllm+http://...#{artifact}), "
            "or with assay serve"
        )
    return EngineSteps(renderer=found[0], policy=found[1])
