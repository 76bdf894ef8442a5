"""What `RemoteScorer` sends for one completion: a row of Assay's service, token ids, text, or a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from assay.records import Completion
from assay.scorers.http.engine_api import TAKES_IDS, Engine, Remote

if TYPE_CHECKING:
    from assay.data.tokens.render import Rendered, Renderer

_STEPS = (
    "the reward of steps is read at the last step, engines read the end of a text: leave steps out; of a process reward model name "
    "the artifact that vLLM serves, URL#runs/prm"
)
_REMEDY = "name the artifact that it serves, assay.load(URL, artifact='runs/mine') in Python or URL#runs/mine on a command line"


class Item(NamedTuple):
    """What is sent for one completion. error: why nothing can be sent."""

    row: Mapping[str, Any] = MappingProxyType({})
    token_ids: tuple[int, ...] | None = None
    text: str | None = None
    error: str | None = None

    @property
    def kind(self) -> Literal["text", "ids", "conversation", "item"]:
        if self.text is not None:
            return "text"
        if self.token_ids is not None:
            return "ids"
        return "conversation" if "messages" in self.row else "item"


def renderer_for(engine: Remote, artifact: str | Path | None, renderer: Renderer | None) -> Renderer | None:
    """The renderer of the artifact that an engine serves, or the one that is given. Raises ValueError where one goes without the
    other, ArtifactError as `renderer_of`."""
    if artifact is None:
        return renderer
    if engine == "assay":
        raise ValueError(
            f"artifact {artifact} goes with an engine (vllm, sglang, tei, openrlhf), such as vllm+http://HOST#{artifact}; one of "
            f"several models that assay serve holds is http://HOST/m/NAME"
        )
    if renderer is not None:
        raise ValueError(f"artifact {artifact} has a renderer of its own: give it without renderer=")
    from assay.models.saved.artifact_renderer import renderer_of  # imports transformers

    return renderer_of(artifact)


def ids_item(rendered: Rendered) -> Item:
    """All tokens of a completion, or why there are none."""
    return Item(error=rendered.error) if rendered.error is not None else Item(token_ids=tuple(rendered.tokens.tolist()))


def engine_item(completion: Completion, engine: Engine) -> Item:
    """The completion as the engine takes it, without a renderer."""
    if completion.steps is not None:
        return Item(error=_STEPS)
    if completion.token_ids is not None and engine in TAKES_IDS:
        return Item(token_ids=completion.token_ids)
    if completion.text is not None:
        return Item(text=completion.text)
    if completion.response is not None and engine == "vllm" and completion.is_plain:
        return Item(row={"messages": completion.conversation()})
    return Item(error=f"{engine} takes rendered text, which this is not: {_REMEDY}")


def rendered_item(completion: Completion, engine: Engine, rendered: Rendered, renderer: Renderer) -> Item:
    """The completion as the engine takes it, in the tokens or the text that the renderer made of it."""
    from assay.data.tokens.render import read_at_end  # imports transformers' templates

    rendered = read_at_end(rendered)
    if rendered.error is not None:
        return Item(error=rendered.error)
    if engine in TAKES_IDS:  # engines read the last token
        return Item(token_ids=tuple(rendered.tokens[: rendered.reward_positions[-1] + 1].tolist()))
    if completion.steps is not None:
        return Item(error=_STEPS)
    if rendered.is_cut:
        return Item(error=f"more than max_length {renderer.max_length} tokens: {engine} would cut it in its own way")
    text, tokenizer = renderer.text(completion), renderer.tokenizer
    if text is None:
        return Item(error=f"{engine} takes text, not token ids")
    adds = engine == "tei" and tokenizer.bos_token and tokenizer.num_special_tokens_to_add()
    return Item(text=text.removeprefix(tokenizer.bos_token) if adds else text)
