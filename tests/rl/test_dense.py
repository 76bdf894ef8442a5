"""Rewards of steps at a policy's tokens, by hand: characters of several bytes, tokens over two steps, another tokenizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.errors import RewardError
from assay.generation.token_texts import token_ends
from assay.records import Completion, Rewards
from assay.rl.dense import PolicyResponse, dense_rewards, padded, policy_token_rewards, step_ends
from assay.rl.verl_steps import verl_response_scores, verl_rm_scores, verl_token_scores
from tiny import tiny_tokenizer

NAN = math.nan


def bytes_decoder(pieces):
    """A tokenizer whose token k is these bytes."""
    return lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace")


def test_each_reward_stands_at_the_token_with_the_last_character_of_its_step():
    # tokens:  "One" "." "\n" "Two" "."   steps: "One.\n" "Two."
    ends = np.array([3, 4, 5, 8, 9])
    assert step_ends(["One.\n", "Two."]).tolist() == [5, 9]
    assert dense_rewards(ends, np.array([5, 9]), np.array([0.5, -1.0])).tolist() == [0, 0, 0.5, 0, -1.0]


def test_a_token_over_the_end_of_a_step_holds_its_reward():
    # tokens: "One" ".\nT" "wo." : the second holds the end of the first step and the beginning of the next
    assert dense_rewards(np.array([3, 6, 9]), np.array([5, 9]), np.array([0.5, -1.0])).tolist() == [0, 0.5, -1.0]
    both = dense_rewards(np.array([9]), np.array([5, 9]), np.array([0.5, -1.0]))
    assert both.tolist() == [-0.5], "two steps that end in one token are added up"


def test_a_character_of_several_tokens_is_whole_at_its_last():
    pieces = [b"Eis ", "🍦".encode()[:2], "🍦".encode()[2:3], "🍦".encode()[3:], b"\n", "süß".encode()]
    ends = token_ends(bytes_decoder(pieces), range(6))
    assert ends.tolist() == [4, 4, 4, 5, 6, 9]
    assert dense_rewards(ends, step_ends(["Eis 🍦", "\nsüß"]), np.array([1.0, 2.0])).tolist() == [0, 0, 0, 1, 0, 2]


def test_special_tokens_that_are_skipped_hold_nothing():
    pieces = [b"ok", b"", b".", b""]
    ends = token_ends(bytes_decoder(pieces), range(4))
    assert ends.tolist() == [2, 2, 3, 3]
    assert dense_rewards(ends, np.array([3]), np.array([7.0])).tolist() == [0, 0, 7, 0]


def test_the_blank_behind_a_sentence_is_the_next_words():
    # tokens: "One" "." " Two" "."   steps: "One. " "Two."
    assert step_ends(["One. ", "Two."]).tolist() == [4, 9]
    assert dense_rewards(np.array([3, 4, 8, 9]), step_ends(["One. ", "Two."]), np.array([1.0, 2.0])).tolist() == [0, 1, 0, 2]


def test_special_tokens_between_words_do_not_eat_a_blank():
    words = [" One", "", "", " two", "", " three"]
    ends = token_ends(lambda ids: "".join(words[i] for i in ids).removeprefix(" "), range(6))
    assert ends.tolist() == [3, 3, 3, 7, 7, 13]


def test_a_space_that_a_decoder_drops_at_the_beginning_is_counted_where_it_stands():
    words = [" One", " two", " three"]
    ends = token_ends(lambda ids: "".join(words[i] for i in ids).removeprefix(" "), range(3))
    assert ends.tolist() == [3, 7, 13]


@pytest.mark.parametrize("text", ["What is two and two?\n\nIt is four, 四 🍦.\n", "🍦🍦", "a", "é́ x\n\n\n y"])
def test_ends_of_a_real_tokenizer_are_those_of_decoding_every_beginning(text):
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text)["input_ids"]
    whole = [len(tokenizer.decode(ids[: t + 1]).rstrip("�")) for t in range(len(ids))]
    assert token_ends(tokenizer.decode, ids).tolist() == whole
    assert whole[-1] == len(text)


class Steps:
    """Rewards steps with their number; an x in a step has none."""

    fingerprint, scope, tolerance = "steps", "global", 0.0

    def score(self, completions):
        steps = [np.array([NAN if "x" in step else k + 1.0 for k, step in enumerate(one.steps or ("",))]) for one in completions]
        return Rewards(value=[one.min() for one in steps], steps=tuple(steps))


def responses(*steps):
    tokenizer = tiny_tokenizer()
    return [
        PolicyResponse(Completion(messages="q", steps=one), tokenizer("".join(one))["input_ids"]) for one in steps
    ], tokenizer.decode


def test_rewards_of_a_scorer_at_the_tokens_of_another_tokenizer():
    rows, decode = responses(["It is.\n", "四 four"], ["Put it in water."])
    first, second = policy_token_rewards(Steps(), rows, decode)
    assert first[first != 0].tolist() == [1.0, 2.0]
    place = int(np.flatnonzero(first)[0])
    assert decode(rows[0].token_ids[: place + 1]) == "It is.\n"
    assert second.tolist() == [0.0] * (len(second) - 1) + [1.0]
    batch = padded([first, second], 40)
    assert batch.shape == (2, 40)
    assert batch.sum(axis=1).tolist() == [3.0, 1.0]
    with pytest.raises(ValueError, match="nothing is cut off"):
        padded([first], 3)


def test_a_step_without_a_reward_stops_the_run_or_is_nan_and_never_0():
    rows, decode = responses(["It is x.\n", "four"])
    with pytest.raises(RewardError, match="a step has no reward"):
        policy_token_rewards(Steps(), rows, decode)
    (found,) = policy_token_rewards(Steps(), rows, decode, on_failure="none")
    assert np.isnan(found).sum() == 1
    assert found[-1] == 2.0
    with pytest.raises(ValueError, match="on_failure"):
        policy_token_rewards(Steps(), rows, decode, on_failure="zero")


def test_what_is_not_of_one_response_is_refused():
    rows, decode = responses(["It is.\n", "four"])
    other = [rows[0]._replace(token_ids=rows[0].token_ids[:-1])]
    with pytest.raises(ValueError, match="decode as the text was decoded"):
        policy_token_rewards(Steps(), other, decode)
    with pytest.raises(ValueError, match="another text"):
        dense_rewards(np.array([3]), np.array([5]), np.array([1.0]))
    with pytest.raises(ValueError, match="1 rewards for 2 steps"):
        dense_rewards(np.array([9]), np.array([5, 9]), np.array([1.0]))
    with pytest.raises(ValueError, match="must not fall"):
        dense_rewards(np.array([9, 3]), np.array([5]), np.array([1.0]))

    class Outcome(Steps):
        def score(self, completions):
            return Rewards(value=[0.0])

    with pytest.raises(ValueError, match="last token"):
        policy_token_rewards(Outcome(), rows, decode)


class Item:
    """What verl hands to a reward manager, and a row of it."""

    def __init__(self, batch, prompts):
        self.batch, self.prompts = batch, prompts

    def __getitem__(self, i):
        row = Item({name: column[i] for name, column in self.batch.items()}, [])
        row.non_tensor_batch = {"raw_prompt": self.prompts[i]}
        return row


def test_a_reward_manager_of_verl_gets_its_token_scores():
    tokenizer, texts = tiny_tokenizer(), ["It is.\n\nSo four 四.", "It is four."]
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    length = max(map(len, rows)) + 2
    responses = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * (3 + len(row)) + [0] * (length - len(row)) for row in rows])
    data = Item({"responses": responses, "attention_mask": mask}, [[{"role": "user", "content": "2 + 2?"}]] * 2)
    scores = [verl_token_scores(Steps(), tokenizer, data[i]) for i in range(2)]
    assert [len(one) for one in scores] == [len(row) for row in rows]
    tensor = verl_rm_scores(data, scores)
    assert (tensor.shape, tensor.dtype) == (responses.shape, torch.float32)
    assert [row[row != 0].tolist() for row in tensor] == [[1.0, 2.0], [1.0]]
    first = int(tensor[0].nonzero()[0])
    assert tokenizer.decode(rows[0][: first + 1]) == "It is.\n\n"
    assert tensor[0, len(rows[0]) - 2] == 2.0, "the end token, which is skipped, holds none"


def test_a_response_that_says_nothing_has_a_nan_and_never_a_zero():
    tokenizer, prompt = tiny_tokenizer(), [{"role": "user", "content": "2 + 2?"}]
    ids = [*tokenizer(" ")["input_ids"], tokenizer.eos_token_id]
    found = verl_response_scores(Steps(), tokenizer, prompt, ids, on_failure="none")
    assert len(found) == len(ids)
    assert np.isnan(found).tolist() == [False] * (len(ids) - 1) + [True]
    with pytest.raises(RewardError, match="says nothing"):
        verl_response_scores(Steps(), tokenizer, prompt, ids)
    with pytest.raises(RewardError, match="of 0 tokens"):
        verl_response_scores(Steps(), tokenizer, prompt, [], on_failure="none")
    item = Item({"responses": torch.tensor(ids), "attention_mask": torch.ones(len(ids))}, [])
    item.non_tensor_batch = {"uid": "a"}
    with pytest.raises(ValueError, match="no raw_prompt"):
        verl_token_scores(Steps(), tokenizer, item)
