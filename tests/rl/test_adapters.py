"""The adapters against the signatures that the trainers publish."""

import asyncio
import gc
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Barrier

import numpy as np
import pytest
import torch

from assay.errors import RewardError
from assay.messages import Message
from assay.records import Completion, Rewards
from assay.rl.openrlhf import openrlhf_reward
from assay.rl.trl import as_completion, trl_reward
from assay.rl.verl import verl_reward, verl_reward_async
from assay.scorers import base
from assay.scorers.ensemble import Ensemble
from assay.scorers.verifiers.built_in import built_in_rule
from assay.scorers.wrappers.scaled import Scaled


@dataclass
class LastDigit:
    """The reward is the answer's last character as a number; another character cannot be scored."""

    std: bool = False
    fingerprint: str = "test:last-digit"
    scope: str = "global"
    tolerance: float = 0.0

    def score(self, completions):
        self.seen = list(completions)
        ends = [(c.text or c.response)[-1] for c in completions]
        value = np.array([float(end) if end.isdigit() else math.nan for end in ends])
        return Rewards(value=value, std=np.full(len(value), 0.5) if self.std else None)


def test_trl_conversations_are_scored_as_messages_and_strings_as_rendered():
    scorer = LastDigit()
    user = [{"role": "user", "content": "count"}]
    answers = [[{"role": "assistant", "content": "to 4"}], [{"role": "assistant", "content": "to 9"}]]
    assert trl_reward(scorer)(prompts=[user, user], completions=answers, completion_ids=[[1], [2]], topic=["x", "y"]) == [4.0, 9.0]
    assert scorer.seen[1] == Completion(messages=(Message("user", "count"),), response="to 9")
    assert trl_reward(scorer)(prompts=["count "], completions=["to 4"], completion_ids=[[1]]) == [4.0]
    assert scorer.seen[0] == Completion(text="count to 4")


def test_rendered_texts_are_closed_as_the_template_closes_an_answer():
    scorer = LastDigit()
    scorer.closing = "</a>\n1"
    assert trl_reward(scorer)(prompts=["count "], completions=["to 4"]) == [1.0]
    assert scorer.seen[0] == Completion(text="count to 4</a>\n1")
    openrlhf_reward(scorer)(["count to 4</a>\n1", "x"], ["", ""], ["", ""])
    assert [c.text for c in scorer.seen] == ["count to 4</a>\n1", "x</a>\n1"]


def test_trl_groups_are_the_prompts():
    function = trl_reward(LastDigit(), on_failure="group-mean")
    assert function(["a", "a", "a", "b"], ["1", "2", "x", "8"]) == [1.0, 2.0, 1.5, 8.0]
    dropped = trl_reward(LastDigit(), on_failure="drop-group")
    assert dropped(["a", "a", "b", "b"], ["1", "x", "3", "4"]) == [None, None, 3.0, 4.0]


def test_trl_logs_how_many_have_no_reward():
    logged = {}
    function = trl_reward(LastDigit(std=True), on_failure="none", name="rm")
    function(["a"] * 4, ["1", "x", "3", "4"], log_metric=lambda name, value: logged.update({name: value}))
    assert logged == {"rm/unscored": 0.25, "rm/std": 0.5}
    assert function.__name__ == "rm"


def test_trl_tool_turns_belong_to_the_context():
    turns = [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "It is 7"},
    ]
    item = as_completion([{"role": "user", "content": "q"}], turns)
    assert item.response == "It is 7"
    assert [m.role for m in item.messages] == ["user", "assistant", "tool"]
    with pytest.raises(ValueError, match="no answer to score"):
        as_completion([{"role": "user", "content": "q"}], turns[:2])
    with pytest.raises(ValueError, match="both"):
        as_completion("q", turns)


def test_trl_answers_keep_their_calls_and_reasoning():
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    turns = [{"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"}]
    item = as_completion([{"role": "user", "content": "q"}], turns)
    assert (item.response, item.answer.reasoning) == ("", "hm")
    assert [one.as_dict() for one in item.answer.tool_calls] == [call]


def test_openrlhf_takes_the_query_as_rendered():
    scorer = LastDigit(std=True)
    found = openrlhf_reward(scorer)(["<user>hi<assistant>7"], ["hi"], ["label"])
    assert scorer.seen == [Completion(text="<user>hi<assistant>7")]
    assert torch.equal(found["rewards"], torch.tensor([7.0]))
    assert torch.equal(found["scores"], torch.tensor([7.0]))
    assert torch.equal(found["extra_logs"]["reward_std"], torch.tensor([0.5]))


CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is half of 36?<|im_end|>\n<|im_start|>assistant\n"
LLAMA = "<|start_header_id|>user<|end_header_id|>\n\nWhat is half of 36?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.mark.parametrize(
    ("prompt", "said", "label", "reward"),
    [
        (CHATML, "18<|im_end|>", "18", 1.0),
        (CHATML, "18", "18", 1.0),  # cut at its length: no end token
        (CHATML, "19<|im_end|>", "18", 0.0),
        (LLAMA, "18<|eot_id|>", '{"answer": "18"}', 1.0),
        ("Half of 36 is ", "18</s>", 18, 1.0),
        (CHATML + "<think>\n", "half of it</think>18<|im_end|>", "18", 1.0),  # the template opened the thought
    ],
)
def test_openrlhf_gives_a_built_in_rule_the_answer_and_the_label(prompt, said, label, reward):
    rule = built_in_rule("exact", {"final": True} if "<think>" in prompt else {})
    if "<think>" in prompt:
        said = said.replace("18", "<answer>18</answer>")
    found = openrlhf_reward(rule)([prompt + said], [prompt], [label])
    assert found["rewards"].tolist() == [reward]


def test_openrlhf_s_prompt_reaches_a_judge_in_turns():
    class Judge(LastDigit):
        def bill(self):
            return "nothing"

    scorer = Judge()
    openrlhf_reward(scorer)([CHATML + "18<|im_end|>", "Count: 7"], [CHATML, "Count: "], ["", ""])
    turns = (Message("system", "Be brief."), Message("user", "What is half of 36?"))
    assert scorer.seen[0] == Completion(messages=turns, response="18")
    assert scorer.seen[1] == Completion(messages="Count: ", response="7")


def test_a_query_that_does_not_begin_with_its_prompt_has_no_reward_and_a_reason():
    rule = built_in_rule("exact")
    cut = CHATML[20:] + "18<|im_end|>"  # OpenRLHF cuts a long prompt at its front
    found = openrlhf_reward(rule, on_failure="none")([cut, CHATML + "18"], [CHATML, CHATML], ["18", "18"])
    assert found["rewards"].isnan().tolist() == [True, False]
    assert found["rewards"][1] == 1
    for prompt, why in ((CHATML, "does not begin with its prompt"), ("", "came without its prompt")):
        with pytest.raises(RewardError, match=why):
            openrlhf_reward(rule)([cut], [prompt], ["18"])


def test_a_rule_and_a_model_in_one_scorer_cannot_both_have_a_rendered_text():
    class Model(LastDigit):
        renderer = config = None

    with pytest.raises(ValueError, match="cannot be given to both"):
        openrlhf_reward(Ensemble([Model(), built_in_rule("exact")]))
    assert openrlhf_reward(Model())([CHATML + "7"], [""], [""])["rewards"].tolist() == [7.0]


def test_a_failure_is_an_error_or_nan_never_a_number():
    with pytest.raises(RewardError):
        openrlhf_reward(LastDigit())(["x"], ["x"], [None])
    assert openrlhf_reward(LastDigit(), on_failure="none")(["x"], ["x"], [None])["rewards"].isnan().all()
    with pytest.raises(RewardError):
        verl_reward(LastDigit())("set", "x", None, {"prompt": "q"})
    assert math.isnan(verl_reward(LastDigit(), on_failure="none")("set", "x", None, {"prompt": "q"})["score"])
    for adapter in (openrlhf_reward, verl_reward):
        with pytest.raises(ValueError, match="one answer at a time"):
            adapter(LastDigit(), on_failure="drop-group")


def test_verl_finds_the_prompt_in_extra_info():
    scorer = LastDigit(std=True)
    assert verl_reward(scorer)("set", "it is 3", "3", {"prompt": "count"}) == {"score": 3.0, "reward_std": 0.5}
    assert scorer.seen == [Completion(messages="count", response="it is 3")]
    own = verl_reward(scorer, prompt=lambda extra: [{"role": "user", "content": extra["question"]}])
    assert own(data_source="set", solution_str="5", ground_truth=None, extra_info={"question": "q"}, rollout=1)["score"] == 5.0
    with pytest.raises(ValueError, match=r"no 'prompt' \(it has \['index'\]\)"):
        verl_reward(scorer)("set", "5", None, {"index": 4})


class Slow(LastDigit):
    """Counts how many threads ask it at once."""

    asked_by = most = 0

    def score(self, completions):
        self.asked_by += 1
        self.most = max(self.most, self.asked_by)
        time.sleep(0.02)
        self.asked_by -= 1
        return super().score(completions)


@dataclass(frozen=True, slots=True)
class Slotted:
    """Cannot be referred to weakly, and is equal to others like it."""

    slow: Slow
    fingerprint: str = "test:slotted"
    scope: str = "global"
    tolerance: float = 0.0

    def score(self, completions):
        return self.slow.score(completions)


def ask_from_threads(scorers):
    """Each trainer's adapter over each of the scorers, all called at once, several times over."""
    calls = []
    for scorer in scorers:
        calls.append(partial(trl_reward(scorer), ["a"], ["1"]))
        calls.append(partial(openrlhf_reward(scorer), ["1"], [""], [""]))
        calls.append(partial(verl_reward(scorer), "set", "1", None, {"prompt": "q"}))
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in 2 * calls]:
            future.result()


def test_adapters_over_one_scorer_take_turns_whatever_is_wrapped_around_it():
    slow, other = Slow(), Slow(fingerprint="other")
    scorers = [slow, Scaled(scorer=slow, factor=2.0), Ensemble([other, slow]), Ensemble([slow, other])]
    ask_from_threads(scorers)
    assert (slow.most, other.most) == (1, 1)
    inner = Slow()
    ask_from_threads([Slotted(inner), Scaled(scorer=Slotted(inner), factor=2.0)])
    assert inner.most == 1


def test_what_several_threads_may_ask_is_asked_by_several_under_any_wrapper():
    served = Slow()
    served.is_thread_safe = True
    ask_from_threads([served, Scaled(scorer=served, factor=2.0)])
    assert served.most > 1


def test_two_scorers_do_not_wait_for_each_other_and_a_lock_goes_with_its_scorer():
    met = Barrier(2, timeout=10)

    class Meets(LastDigit):
        def score(self, completions):
            met.wait()  # breaks unless the other is asked at the same time
            return super().score(completions)

    before = len(base._locks)
    functions = [openrlhf_reward(Meets()) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda function: float(function(["7"], [""], [""])["rewards"]), functions))
    assert found == [7.0, 7.0]
    assert len(base._locks) == before + 2
    del functions
    gc.collect()
    assert len(base._locks) == before


def test_verl_coroutines_run_side_by_side():
    compute_score = verl_reward_async(LastDigit())

    async def several():
        return await asyncio.gather(*(compute_score("set", str(i), None, extra_info={"prompt": "q"}) for i in range(6)))

    assert [row["score"] for row in asyncio.run(several())] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
