"""The suites: where each one's rows are, how they are read, which rule scores them, and how its figures are put together.

Sources of the rules are named beside them; docs/suites.md is the same as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from assay.data.raw.cells import text_of
from assay.data.sources import chosen, judged, labelled, ranked
from assay.evaluation.suites import marking as rules
from assay.evaluation.suites import readers
from assay.evaluation.suites.marking import Rule
from assay.evaluation.suites.marks import OVERALL, Section, mean_of
from assay.evaluation.suites.readers import Reader, each_row, either


def single(part: str) -> Section:
    return Section(part, ((1.0, (part,)),))


def pooled(parts: Sequence[str]) -> list[Section]:
    """Each part, and all values of all parts as one."""
    whole = Section(OVERALL, ((1.0, tuple(parts)),), "all comparisons together")
    return [whole] if len(parts) == 1 else [*map(single, parts), whole]


def averaged(parts: Sequence[str]) -> list[Section]:
    """Each part, and the mean of the parts."""
    each = [single(part) for part in parts]
    return [*each, mean_of(OVERALL, each, f"mean of {', '.join(parts)}")]


class Suite(NamedTuple):
    """A benchmark.

    files: label -> file under the data folder, without its suffix. hub: label -> hub data set as "org/name@config#split".
    rule: how its cases are scored. sections: from the parts that were found to the figures, the last of which is the overall one.
    size: its number of cases as published, 0 when not known; a warning says when there are fewer.
    """

    name: str
    what: str
    read: Reader
    rule: Rule = rules.pairs
    sections: Callable[[Sequence[str]], Sequence[Section]] = pooled
    files: Mapping[str, str] = {}
    hub: Mapping[str, str] = {}
    size: int = 0


# RewardBench (Lambert et al. 2024): counts and sections as its package weights them. The released counts are 154 for
# xstest-should-refuse and 250 for xstest-should-respond; an early revision, and copies of it, have them swapped.
EXAMPLE_COUNTS = {
    "Chat": {"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28, "mt-bench-med": 40},
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,  # 447 pairs, weighted as much as the code beside them
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}


def _reward_bench(parts: Sequence[str]) -> list[Section]:
    """Accuracies of the subsets weighted by their published counts; the score is the mean of the four sections."""
    sections = []
    for name, counts in EXAMPLE_COUNTS.items():
        here = {subset: count for subset, count in counts.items() if subset in parts}
        if here:
            terms = tuple((count / sum(here.values()), (subset,)) for subset, count in here.items())
            sections.append(Section(name, terms, "subsets weighted by their published counts"))
    return [*sections, mean_of(OVERALL, sections, f"mean of {', '.join(section.name for section in sections)}")]


# RewardBench 2 (Malik et al. 2025): best of 4 in five domains, and the Ties.
_TIES_WEIGHTS = {rules.TIED: 0.3, rules.REFERENCE: 0.3, rules.PREFERRED: 0.2, rules.PREFERRED_HARD: 0.2, rules.MARGIN: 0.01}


def _reward_bench_2(parts: Sequence[str]) -> list[Section]:
    sections = [single(part) for part in parts if part not in _TIES_WEIGHTS]
    terms = tuple((weight, (part,)) for part, weight in _TIES_WEIGHTS.items() if part in parts)
    if terms:
        counted = tuple(part for part in (rules.TIED, rules.REFERENCE) if part in parts)
        sections.append(Section("Ties", terms, ".3 tied + .3 reference + .2 preferred + .2 preferred hard + .01 margin", counted))
    return [*sections, mean_of(OVERALL, sections, f"mean of {', '.join(section.name for section in sections)}")]


# RM-Bench (Liu et al. 2025): hard, normal and easy are means over the domains, a domain is the mean of its three.


def _rm_bench(parts: Sequence[str]) -> list[Section]:
    domains = list(dict.fromkeys(part.partition(":")[0] for part in parts))
    kinds = (rules.EASY, rules.NORMAL, rules.HARD)
    by_kind = [mean_of(kind, [single(f"{d}: {kind}") for d in domains], "mean of the domains") for kind in kinds]
    by_domain = [mean_of(d, [single(f"{d}: {kind}") for kind in kinds], "mean of easy, normal, hard") for d in domains]
    return [*by_kind, *by_domain, mean_of(OVERALL, by_domain, f"mean of {', '.join(domains)}")]


# LLMBar (Zeng et al. 2024): the mean of Natural and the adversarial subsets; the processed sets and case studies stand beside.
_LLMBAR = ("natural", "neighbor", "gptinst", "gptout", "manual")


def _llmbar(parts: Sequence[str]) -> list[Section]:
    each = [single(part) for part in parts]
    own = [section for section in each if section.name in _LLMBAR] or each
    return [*each, mean_of(OVERALL, own, f"mean of {', '.join(section.name for section in own)}")]


# PPE correctness (Frick et al. 2025): the mean over its sets of the accuracy on the drawn pairs; best of k beside it.


def _beside_best(parts: Sequence[str]) -> list[Section]:
    each = [part for part in parts if rules.best(part) in parts]
    beside = [
        Section(rules.best(part), ((1.0, (rules.best(part),)),), "gold of the answer with the highest reward") for part in each
    ]
    return [*map(single, each), *beside, averaged(each)[-1]]


def _with_ties(parts: Sequence[str]) -> list[Section]:
    """Agreement three ways is the published figure; strict accuracy without the ties is what other suites report."""
    note = "three ways; the margin of a tie is fitted on the other half of the prompts"
    return [single(rules.WITHOUT_TIES), Section(OVERALL, ((1.0, (rules.THREE_WAYS,)),), note)]


def _word(cell: object) -> str:
    return cell if isinstance(cell, str) else ""


_PPE = ("MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus")

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="rewardbench",
            what="chosen against rejected in 23 subsets",
            read=each_row(chosen.explicit, lambda label, row: (text_of(row["subset"]), text_of(row["subset"]))),
            sections=_reward_bench,
            files={"filtered": "rewardbench/filtered"},
            hub={"filtered": "allenai/reward-bench#filtered"},
            size=2985,
        ),
        Suite(
            name="rewardbench2",
            what="best of 4 in five domains, and questions with many right answers",
            rule=rules.by_section({"Ties": rules.tied_answers}, rules.best_of),
            read=each_row(readers.reward_bench_2, readers.by_subset),
            sections=_reward_bench_2,
            files={"test": "rewardbench2/test"},
            hub={"test": "allenai/reward-bench-2#test"},
            size=1865,
        ),
        Suite(
            name="rm-bench",
            what="right against subtly wrong, 3 x 3 styles",
            rule=rules.styles,
            read=each_row(chosen.rm_bench, readers.by_domain),
            sections=_rm_bench,
            files={name: f"rm-bench/{name}" for name in ("chat", "math", "code", "safety-refuse", "safety-response")},
            hub={"all": "THU-KEG/RM-Bench#train"},
            size=1327,
        ),
        Suite(
            name="llmbar",
            what="does it follow the instruction; adversarial sets; human preferences",
            read=each_row(labelled.llmbar),
            sections=_llmbar,
            files={name: f"llmbar/{name}" for name in (*_LLMBAR, "mtbench", "llmeval2", "faireval")}
            | {f"case {name}": f"llmbar/case_{name}" for name in ("base10", "base9", "constraint", "negation", "normal")},
        ),
        Suite(
            name="judgebench",
            what="right against wrong answers of GPT-4o to hard questions",
            rule=rules.second_on_ties,
            read=each_row(labelled.judge_bench, readers.by_subject),
            files={"gpt": "judgebench/gpt"},
            hub={"gpt": "ScalerLab/JudgeBench#gpt"},
            size=350,
        ),
        Suite(
            name="judgebench-claude",
            what="the same with answers of Claude 3.5 Sonnet",
            rule=rules.second_on_ties,
            read=each_row(labelled.judge_bench, readers.by_subject),
            files={"claude": "judgebench/claude"},
            hub={"claude": "ScalerLab/JudgeBench#claude"},
            size=270,
        ),
        Suite(
            name="rmb",
            what="pairs, and best answers that must beat all losers, in 49 scenarios",
            rule=rules.beats_all,
            read=each_row(either("bon_best", chosen.rmb_best_of_n, chosen.rmb), readers.by_goal),
            sections=averaged,
            files={"pairs": "rmb/pairs", "best of n": "rmb/best_of_n"},
        ),
        Suite(
            name="ppe-preference",
            what="votes of Chatbot Arena",
            read=each_row(labelled.ppe_human, lambda label, row: ("pairs", _word(row.get("language")))),
            files={"human": "ppe/human_preference"},
            hub={"human": "lmarena-ai/PPE-Human-Preference-V1#test"},
            size=16038,
        ),
        Suite(
            name="ppe-correctness",
            what="right against wrong among 32 answers to verifiable questions",
            rule=rules.pairs_and_best,
            read=each_row(
                ranked.ppe_correctness, lambda label, row: (label, f"{label}: {row.get('model_name') or 'model not named'}")
            ),
            sections=_beside_best,
            files={name: f"ppe/{name.lower().replace('-', '_')}" for name in _PPE},
            hub={name: f"lmarena-ai/PPE-{name}-Best-of-K#train" for name in _PPE},
            size=2555,
        ),
        Suite(
            name="hhh",
            what="helpful, honest, harmless, other",
            read=each_row(either("targets", labelled.hhh, chosen.explicit), readers.by_subset),
            files={"pairs": "hhh-alignment/pairs"},
            hub={name: f"HuggingFaceH4/hhh_alignment@{name}#test" for name in ("harmless", "helpful", "honest", "other")},
            size=221,
        ),
        Suite(
            name="xstest",
            what="compliance above refusal on safe prompts, the reverse on unsafe ones; one less the best of n is over-refusal",
            rule=rules.pairs_and_best,
            read=readers.judged_answers(judged.xstest, readers.by_safety, distinct=False),
            sections=_beside_best,
            files={"completions": "xstest/completions_human_labels"},
        ),
        Suite(
            name="hh",
            what="dialogues, crowd workers' choice",
            read=each_row(readers.hh),
            files={"harmless": "hh-rlhf-harmless/pairs"},
            hub={"test": "Anthropic/hh-rlhf#test"},
        ),
        Suite(
            name="truthfulqa",
            what="true above false, informative above other answers to one question",
            rule=rules.pairs_and_best,
            read=readers.judged_answers(either("truthful", judged.truthful, judged.informative), distinct=True),
            sections=_beside_best,
            files={"truth": "truthfulqa-judge/truth", "info": "truthfulqa-judge/info"},
        ),
        Suite(
            name="alpacaeval",
            what="agreement with GPT-4 on a model's answer against the reference's",
            read=readers.alpaca_eval,
            sections=averaged,
            files={name: f"alpacaeval/{name}" for name in ("prompts", "outputs", "preferences", "preferences_with_explanations")},
        ),
        Suite(
            name="pandalm",
            what="majority of three annotators, ties",
            rule=rules.labels_with_ties,
            read=each_row(readers.pandalm, lambda label, row: (label, f"{labelled.majority(row)[1]} of 3 agree")),
            sections=_with_ties,
            files={"testset": "pandalm/testset-v1"},
            size=999,
        ),
        Suite(
            name="autoj",
            what="human labels with ties in 58 scenarios",
            rule=rules.labels_with_ties,
            read=each_row(labelled.auto_j, lambda label, row: (label, text_of(row["scenario"]))),
            sections=_with_ties,
            files={"pairwise": "autoj/pairwise"},
            size=1392,
        ),
    )
}

_OWN = each_row(ranked.choices, lambda label, row: ("best of n", _word(row.get("subset"))))
OWN_PAIRS = Suite("pairs", "pairs of one's own", _OWN)
OWN_LISTS = Suite("best of n", "lists of one's own", _OWN, rules.best_of)
