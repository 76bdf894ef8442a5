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

    name: behind the # of a spec. models: hub ids that have it. asks: about one answer, two, or all answers to a prompt in one call.
    gives: one of `words`, or a score in `scale` for each answer. verdict: pattern of a whole verdict, with what it says as the
    group `said`.

    words: the verdict's, as its tokens are; shares: P(the first answer is better, or the one is good) that each word says.
    by_token: whether the words' tokens can be read. spelled: how a verdict is written, as our own words ask for it where the
    publisher's prompt is not at hand. labels: what the answers are called. lead: what a reply is begun with where the verdict is
    read without a critique. writes: whether a critique stands before the verdict. hides: patterns of places where a reply repeats
    what it judges. quotes_verdict: whether the verdict itself stands in quotation marks, as in JSON. roles: the answers are turns
    of their own, response_1 and response_2, in the model's chat template.

    combine: of several replies, the mean probability or score, the share of votes, or the sum of scores. temperature: of several
    replies. max_tokens: of a reply. prompt: what of the publisher's input is not in the model's files, "" for nothing. digests: of
    the normalised published prompts (see `form_prompts.prompt_digest`) -> where each stands. source: where all this was read.
    """

    name: str
    models: tuple[str, ...] = ()
    asks: Asks
    gives: Gives = "choice"
    words: tuple[str, ...] = ()
    shares: tuple[float, ...] = (1.0, 0.0)
    by_token: bool = True
    scale: tuple[int, int] | None = None
    verdict: str
    spelled: tuple[str, ...]
    labels: tuple[str, ...] = ("A", "B")
    lead: str = ""
    writes: bool = True
    hides: tuple[str, ...] = ()
    quotes_verdict: bool = False
    roles: bool = False
    combine: Combine = "mean"
    temperature: float = 1.0
    max_tokens: int = 2048
    prompt: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    source: str

    @property
    def is_own(self) -> bool:
        """Whether its prompt is Assay's own."""
        return self.name.startswith("assay-")


_LINE = r"^[ \t*_#>-]*verdict[ \t*_]*:[ \t*_]*(?P<said>{words})(?!\w)"
_BRACKETS = r"\[\[\s*(?P<said>[abc])\s*\]\]"
_RESULT = r"^[ \t*_#>-]*result[ \t*_]*:[\s*_]*(?P<said>{words})(?![\w.])"
_IN_A_BOX = r"\[The Begin of {name}\]\s*\\boxed\{{\s*(?P<said>{said})\s*\}}\s*\[The End of {name}\]"
_REPEATED = (r"<(quote|summary)_[ab]>.*?</\1_[ab]>",)  # what RM-R1 repeats of the answers
_RM_R1 = "gaotang/RM-R1-"
_PROMETHEUS = (
    "prometheus-eval/prometheus-7b-v2.0",
    "prometheus-eval/prometheus-8x7b-v2.0",
    "prometheus-eval/prometheus-bgb-8x7b-v2.0",
)
_SELENE = ("AtlaAI/Selene-1-Mini-Llama-3.1-8B", "AtlaAI/Selene-1-Llama-3.3-70B")
_COMPASS_1 = tuple(f"opencompass/CompassJudger-1-{size}-Instruct" for size in ("1.5B", "7B", "14B", "32B"))
_NEMOTRON = tuple(f"nvidia/Llama-3_3-Nemotron-Super-49B-GenRM{kind}" for kind in ("", "-Multilingual"))
_NEMOTRON_CARD = "NVIDIA's model card and NeMo's converters: turns response_1 and response_2; scores 1 to 5, ranking 1 to 6"
_CARD_PROMPT = "the publisher's prompt (its model card)"

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
        GenerativeForm(
            name="rm-r1",
            models=tuple(f"{_RM_R1}Qwen2.5-Instruct-{size}" for size in ("7B", "14B", "32B")),
            asks="two",
            words=("A", "B"),
            verdict=r"<answer>\s*\[\[\s*(?P<said>[ab])\s*\]\]\s*</answer>",
            spelled=("<answer>[[A]]</answer>", "<answer>[[B]]</answer>"),
            hides=_REPEATED,
            max_tokens=4096,
            prompt="the publisher's system turn and layout (demo/demo.ipynb of RM-R1-UIUC/RM-R1)",
            digests={
                "cec13c4c39472dd7fa62db084b022491": "demo/demo.ipynb, one question",
                "dbc7c948a452e39fe5a0c6b34a8ccb5c": "demo/demo.ipynb, conversations",
            },
            source="demo/demo.ipynb of RM-R1-UIUC/RM-R1: type, rubric or solution, eval, and the answer in its tag",
        ),
        GenerativeForm(
            name="rm-r1-reasoning",
            models=tuple(f"{_RM_R1}DeepSeek-Distilled-Qwen-{size}" for size in ("7B", "14B", "32B")),
            asks="two",
            words=("A", "B"),
            verdict=r"<answer>\s*\[\[\s*(?P<said>[ab])\s*\]\]\s*</answer>",
            spelled=("<answer>[[A]]</answer>", "<answer>[[B]]</answer>"),
            hides=_REPEATED,
            max_tokens=8192,
            prompt="the publisher's prompt, one user's turn (demo/demo.ipynb of RM-R1-UIUC/RM-R1)",
            digests={
                "56f863762f600282b00b4a170acc8842": "demo/demo.ipynb, one question",
                "3286286b67a1a3fec8ba89d153d1fad4": "demo/demo.ipynb, conversations",
            },
            source="demo/demo.ipynb of RM-R1-UIUC/RM-R1: no system turn, thoughts, and the answer in its tag",
        ),
        GenerativeForm(
            name="deepseek-grm",
            models=("BBQGOD/DeepSeek-GRM-16B", "BBQGOD/DeepSeek-GRM-27B"),
            asks="several",
            gives="score",
            scale=(1, 10),
            verdict=r"\\boxed\{\s*(?P<said>\d+(?:\.\d+)?(?:\s*,\s*\d+(?:\.\d+)?)*)\s*\}",
            spelled=("Scores: \\boxed{N, N, ...}",),
            labels=(),
            combine="sum",
            prompt="the publisher's prompt (its model card; appendix of Liu et al. 2025)",
            source="Liu et al. 2025 (2504.02495): criteria, analysis, scores 1 to 10 of all answers; k samples are summed",
        ),
        GenerativeForm(
            name="skywork-critic",
            models=("Skywork/Skywork-Critic-Llama-3.1-8B", "Skywork/Skywork-Critic-Llama-3.1-70B"),
            asks="two",
            words=("A", "B"),
            verdict=r"\[\[\s*(?P<said>[ab])\s*\]\]",
            spelled=("[[A]]", "[[B]]"),
            lead="[[",
            writes=False,
            prompt=_CARD_PROMPT,
            digests={"df5407f85e0f06378b13e34fee47e488": "its model card"},
            source="its model card: the verdict alone",
        ),
        GenerativeForm(
            name="prometheus",
            models=_PROMETHEUS,
            asks="one",
            gives="score",
            words=("5", "4", "3", "2", "1"),
            scale=(1, 5),
            verdict=r"\[RESULT\]\s*\(?(?P<said>\d+)\)?(?![\w.])",
            spelled=("[RESULT] N",),
            max_tokens=1024,
            prompt="the publisher's prompt with a rubric (libs/prometheus-eval/prometheus_eval/prompts.py)",
            digests={
                "ec2e7d1291ed6da2358c92d0ca7ab613": "prompts.py, without a reference",
                "cc57ac8e6f928dd22a5300eabec7102e": "reward-bench",
            },
            source="prometheus_eval/prompts.py and parser.py of prometheus-eval: feedback, [RESULT], 1 to 5",
        ),
        GenerativeForm(
            name="prometheus-pairwise",
            models=_PROMETHEUS,
            asks="two",
            words=("A", "B"),
            verdict=r"\[RESULT\]\s*\(?(?:response\s+)?(?P<said>[ab])\)?(?!\w)",
            spelled=("[RESULT] A", "[RESULT] B"),
            max_tokens=1024,
            prompt="the publisher's prompt with a rubric (libs/prometheus-eval/prometheus_eval/prompts.py)",
            digests={
                "b35609506dbfaefd25ce632991919805": "prompts.py, without a reference",
                "fb4c504578d8a657b7f26db4ea91a637": "reward-bench",
            },
            source="prometheus_eval/prompts.py and parser.py of prometheus-eval: feedback, [RESULT], A or B",
        ),
        GenerativeForm(
            name="judgelrm",
            models=tuple(f"nuojohnchen/JudgeLRM-{size}" for size in ("3B", "7B")),
            asks="two",
            gives="score",
            scale=(1, 10),
            verdict=r"<answer>\s*(?P<said>\d+(?:\.\d+)?\s*</answer>\s*<answer>\s*\d+(?:\.\d+)?)\s*</answer>",
            spelled=("<answer>N</answer><answer>N</answer>",),
            labels=("1", "2"),
            prompt="the publisher's prompt (src/examples/data_preprocess/judgelrm.py of NuoJohnChen/JudgeLRM)",
            digests={
                "0394c67016fe9b48773cde3cbaaf7b15": "judgelrm.py, with <think> begun",
                "e5712487c33db5433d8c0cffa3c9fa83": "judgelrm.py",
            },
            source="judgelrm.py of NuoJohnChen/JudgeLRM: thoughts, then a score 1 to 10 for each answer",
        ),
        GenerativeForm(
            name="rrm",
            models=("Reward-Reasoning/RRM-7B", "Reward-Reasoning/RRM-32B"),
            asks="two",
            words=("1", "2"),
            verdict=r"\\boxed\{\s*(?:\\text\{\s*)?assistant\s*(?P<said>[12])\s*\}",
            spelled=("\\boxed{Assistant 1}", "\\boxed{Assistant 2}"),
            labels=("1", "2"),
            temperature=0.6,
            max_tokens=8192,
            prompt=_CARD_PROMPT,
            digests={"7532555b18f9880ea3297e0192b473e1": "its model card"},
            source="its model card: thoughts, then \\boxed{Assistant 1} or 2, temperature 0.6; knockout or Elo over several",
        ),
        GenerativeForm(
            name="compassjudger-1",
            models=_COMPASS_1,
            asks="two",
            words=("A", "B"),
            verdict=r"\A\s*(?:assistant\s+)?(?P<said>[ab])[\s.]*\Z",
            spelled=("A", "B"),
            writes=False,
            prompt=_CARD_PROMPT,
            source='its model card, "Judge as Reward Model": the letter alone',
        ),
        GenerativeForm(
            name="compassjudger-1-pairwise",
            models=_COMPASS_1,
            asks="two",
            words=("A>>B", "A>B", "A=B", "B>A", "B>>A"),
            shares=(1.0, 0.75, 0.5, 0.25, 0.0),
            by_token=False,
            verdict=r"\[\[\s*(?P<said>A\s*(?:>>|>|=)\s*B|B\s*(?:>>|>|=)\s*A)\s*\]\]",
            spelled=("[[A>>B]]", "[[A>B]]", "[[A=B]]", "[[B>A]]", "[[B>>A]]"),
            prompt=_CARD_PROMPT,
            source='its model card, "Pair-wise Judge" (Arena-Hard\'s labels; slightly better counts as 0.75, which is our choice)',
        ),
        GenerativeForm(
            name="compassjudger-1-scores",
            models=_COMPASS_1,
            asks="one",
            gives="score",
            scale=(1, 10),
            verdict=r"['\"“]综合得分['\"”]\s*:\s*(?P<said>\d+(?:\.\d+)?)\s*[,}]",
            spelled=("{'综合得分': N}",),
            quotes_verdict=True,
            prompt=_CARD_PROMPT,
            source='its model card, "Point-wise Judge": a dictionary of scores 1 to 10, of which the overall one counts',
        ),
        GenerativeForm(
            name="compassjudger-2",
            models=tuple(f"opencompass/CompassJudger-2-{size}-Instruct" for size in ("7B", "32B")),
            asks="two",
            words=("A", "B"),
            verdict=r"['\"“]choice['\"”]\s*:\s*['\"“]\s*\[?(?:model\s+)?(?P<said>[ab])\]?\s*['\"”]",
            spelled=('{"Choice": "Model A"}', '{"Choice": "Model B"}'),
            quotes_verdict=True,
            prompt="the publisher's prompt (README.md of open-compass/CompassJudger)",
            digests={"1be1701d62f86e4039ec970f7a0bbca0": "README.md"},
            source="README.md of open-compass/CompassJudger: a JSON with its choice",
        ),
        GenerativeForm(
            name="offsetbias",
            models=("NCSOFT/Llama-3-OffsetBias-8B",),
            asks="two",
            words=("(a", "(b"),
            verdict=r"Output\s*(?P<said>\([ab])\)",
            spelled=("Output (a)", "Output (b)"),
            labels=("(a)", "(b)"),
            lead="Output",
            writes=False,
            prompt="the publisher's prompt (prompt/offsetbias.py of ncsoft/offsetbias)",
            digests={
                "68807e18b166691929c8ef3c986b8bce": "prompt/offsetbias.py",
                "7749694f8a3aca392bd450e3776883ed": "reward-bench",
            },
            source="prompt/offsetbias.py of ncsoft/offsetbias: the verdict alone",
        ),
        GenerativeForm(
            name="con-j",
            models=("ZiyiYe/Con-J-Qwen2-7B",),
            asks="two",
            words=("1", "2"),
            verdict=r"['\"“]更好的回答['\"”]\s*:\s*['\"“]?(?P<said>[12])['\"”]?\s*[,}]",
            spelled=('{"原因": "...", "更好的回答": 1}', '{"原因": "...", "更好的回答": 2}'),
            labels=("1", "2"),
            quotes_verdict=True,
            prompt=_CARD_PROMPT,
            digests={"ca07c5cd4bc1845cc30fc55bdc9f80b5": "its model card"},
            source="its model card: a JSON with the reason and which answer is better",
        ),
        GenerativeForm(
            name="selene",
            models=_SELENE,
            asks="one",
            gives="score",
            words=("5", "4", "3", "2", "1"),
            scale=(1, 5),
            verdict=_RESULT.format(words=r"\d+"),
            spelled=("**Result:** N",),
            prompt="the publisher's prompt with a rubric (prompt-templates/absolute-scoring.yaml of atla-ai/selene-mini)",
            digests={"2c8e522ecafc76f43e404a238b531744": "absolute-scoring.yaml"},
            source="prompt-templates of atla-ai/selene-mini: reasoning, then the result, 1 to 5",
        ),
        GenerativeForm(
            name="selene-pairwise",
            models=_SELENE,
            asks="two",
            words=("A", "B"),
            verdict=_RESULT.format(words="[ab]"),
            spelled=("**Result:** A", "**Result:** B"),
            prompt="the publisher's prompt (prompt-templates/pairwise.yaml of atla-ai/selene-mini)",
            digests={"5ccfcc81b7009c5b4d7e5b4fbc02a141": "pairwise.yaml", "abb03278f2d7fa535567ebcc739550e9": "reward-bench"},
            source="prompt-templates of atla-ai/selene-mini: reasoning, then the result, A or B",
        ),
        GenerativeForm(
            name="nemotron-genrm",
            models=_NEMOTRON,
            asks="two",
            words=("1", "2", "3", "4", "5", "6"),
            shares=(1.0, 0.8, 0.6, 0.4, 0.2, 0.0),
            verdict=_IN_A_BOX.format(name="Ranking Score", said="[1-6]"),
            spelled=("[The Begin of Ranking Score]\n\\boxed{N}\n[The End of Ranking Score], N from 1 (the first is best) to 6",),
            labels=("1", "2"),
            roles=True,
            temperature=0.6,
            max_tokens=8192,
            source=f"{_NEMOTRON_CARD}; the six steps as shares are our choice, their middle is the publisher's",
        ),
        GenerativeForm(
            name="nemotron-genrm-pointwise",
            models=_NEMOTRON,
            asks="one",
            gives="score",
            scale=(1, 5),
            verdict=_IN_A_BOX.format(name="Individual Scores", said=r"\d+"),
            spelled=("[The Begin of Individual Scores]\n\\boxed{N}\n[The End of Individual Scores]",),
            roles=True,
            temperature=0.6,
            max_tokens=8192,
            source=_NEMOTRON_CARD,
        ),
        GenerativeForm(
            name="mt-bench",
            models=("R-I-S-E/RISE-Judge-Qwen2.5-7B", "R-I-S-E/RISE-Judge-Qwen2.5-32B"),
            asks="two",
            words=("A", "B", "C"),
            shares=(1.0, 0.0, 0.5),
            verdict=_BRACKETS,
            spelled=("[[A]]", "[[B]]"),
            prompt="the prompt (prompt_v2 in rewardbench/generative.py of allenai/reward-bench)",
            digests={
                "f7cf45aad18f1cf35a587fe8ea66a950": "prompt_v2 of reward-bench",
                "cfd95cfcbb2b54dfd98f7e86cfb5b0d3": "RISE-Judge in reward-bench",
            },
            source="rewardbench/generative.py of allenai/reward-bench: an explanation, then [[A]] or [[B]]; [[C]] is a tie",
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
