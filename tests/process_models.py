"""Tiny random process reward models in the forms that others publish them in: the schema is real, the weights are not.

`ORACLES` has each publisher's reading written out on transformers' own classes: one forward for each step, on the prefix alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from tiny import tiny_tokenizer

QUESTION = "How many eggs are two eggs and three eggs?"
STEPS = ("Step 1: There are two eggs.\n", "Step 2: Three more make 2 + 3 - 0 = 6 eggs.\n", "Step 3: The answer is 6.")
PARAGRAPHS = ("There are two eggs.\n\n", "Three more make 2 + 3 - 0 = 6 eggs,\nor so.\n\n", "The answer is 6.")
SHARED = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
SYSTEM_CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nThink.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
)
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n\n' + (m['content'] | trim) + '<|im_end|>' }}{% endfor %}"
)
_WORDS = "Step 1: There are two eggs. Three more make six eggs, or so. The answer is 6. How many eggs are two eggs and three eggs?"


def sentence_tokenizer(*, pad: str | None = None, splits_lines: bool = True) -> PreTrainedTokenizerFast:
    """Words begin with a space's mark, a BOS stands before each text, and " ки", " +" and " -" are one token each, as Mistral's
    tokenizer has them. splits_lines: whether a line break is a token of its own; else one may merge with a word before it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    space = pre_tokenizers.Metaspace(prepend_scheme="first" if splits_lines else "always")
    lines = [pre_tokenizers.Split(Regex("\n"), "isolated")] if splits_lines else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*lines, space])
    tokenizer.decoder = decoders.Metaspace()
    alphabet = [chr(i) for i in range(32, 127)] + ["\n", "к", "и"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([_WORDS, "a ки a ки a ки\na ки\na ки\n + - + - + - "] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    if pad is not None:
        fast.pad_token = pad
    return fast


def chat_tokenizer(template: str | None, *, mark: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template, and a separator as a token of its own."""
    tokenizer = tiny_tokenizer(template)
    if mark is not None:
        tokenizer.add_tokens([mark])
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 3


def _publish(path: Path, config, tokenizer, head: dict[str, torch.Tensor], *, prefix: str = "model.", **entries) -> Path:
    torch.manual_seed(3)
    base = AutoModel.from_config(config)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config.to_dict() | entries))
    tensors = {f"{prefix}{name}": value.contiguous() for name, value in base.state_dict().items()}
    save_file({**tensors, **head}, path / "model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(path)
    return path


def save_math_shepherd(path: Path, *, tied: bool = False, tokenizer=None) -> Path:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(MistralConfig(**SHARED, sliding_window=None, tie_word_embeddings=tied)).save_pretrained(path)
    (tokenizer or sentence_tokenizer()).save_pretrained(path)
    return path


def save_rlhflow(path: Path, *, template: str = TRIMMED) -> Path:
    torch.manual_seed(2)
    AutoModelForCausalLM.from_config(LlamaConfig(**SHARED)).save_pretrained(path)
    chat_tokenizer(template).save_pretrained(path)
    return path


def save_qwen_math_prm(path: Path, *, linear: bool = False) -> Path:
    """linear: one linear map in place of the published model's two."""
    hidden = {"score.0.weight": normal(32, 32, seed=4), "score.0.bias": normal(32, seed=5)}
    last = {"score.2.weight": normal(2, 32, seed=6), "score.2.bias": normal(2, seed=7)}
    head = {"score.weight": normal(2, 32, seed=6), "score.bias": normal(2, seed=7)} if linear else {**hidden, **last}
    tokenizer = chat_tokenizer(SYSTEM_CHATML, mark="<extra_0>")
    code = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}
    _publish(path, Qwen2Config(**SHARED), tokenizer, head, architectures=["Qwen2ForProcessRewardModel"], auto_map=code)
    (path / "theirs.py").write_text("raise SystemExit('the code of a publisher was run')\n")
    return path


def save_skywork(path: Path) -> Path:
    head = {"v_head.summary.weight": normal(1, 32, seed=8), "v_head.summary.bias": torch.tensor([0.4])}
    head |= {"lm_head.weight": normal(400, 32, seed=9)}
    return _publish(path, Qwen2Config(**SHARED), chat_tokenizer(None), head, architectures=["Qwen2ForPrmModel"])


def save_token_labels(path: Path, *, num_labels: int = 2) -> Path:
    """What TRL's PRMTrainer saved, and PURE with it."""
    torch.manual_seed(5)
    config = Qwen2Config(**SHARED, num_labels=num_labels)
    AutoModelForTokenClassification.from_config(config).save_pretrained(path)
    chat_tokenizer(None).save_pretrained(path)
    return path


def save_reasoneval(path: Path, *, pad: str = "</s>") -> Path:
    """pad: "<s>" as the 7B model has it, "</s>" as a model whose padding is not its BOS."""
    head = {"score_head.weight": normal(3, 32, seed=10), "score_head.bias": normal(3, seed=11)}
    config = MistralConfig(**SHARED, sliding_window=None)
    return _publish(path, config, sentence_tokenizer(pad=pad), head, architectures=["ReasonEval_7B"], score_dimension=3)


SAVED: dict[str, Callable[[Path], Path]] = {
    "math-shepherd": save_math_shepherd,
    "rlhflow": save_rlhflow,
    "rlhflow-blank-line": save_rlhflow,
    "qwen-math-prm": save_qwen_math_prm,
    "skywork-o1": save_skywork,
    "trl": save_token_labels,
    "pure": save_token_labels,
    "reasoneval": save_reasoneval,
    "reasoneval-redundancy": save_reasoneval,
}
CUT_BY_LINE = {"math-shepherd", "skywork-o1", "reasoneval", "reasoneval-redundancy"}


def steps_of(form: str) -> tuple[str, ...]:
    return STEPS if form in CUT_BY_LINE else PARAGRAPHS


def _last_state(path: Path, ids: list[int]) -> torch.Tensor:
    """The state at the last of the ids, by transformers' plain base model, one forward."""
    config = AutoModel.from_pretrained(path, attn_implementation="eager", trust_remote_code=False).eval()
    with torch.no_grad():
        return config(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]


def _causal_logits(path: Path, ids: list[int], place: int) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, place]


def oracle_math_shepherd(path: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    candidates, tag = tokenizer.encode("+ -")[1:], tokenizer.encode("ки")[-1]
    values = []
    for k in range(1, len(steps) + 1):
        ids = tokenizer.encode(f"{question} " + "\n".join(f"{step} ки" for step in steps[:k]))
        assert ids[-1] == tag
        assert ids.count(tag) == k
        values.append(float(_causal_logits(path, ids, -1)[candidates].softmax(dim=-1)[0]))
    return values


def oracle_rlhflow(path: Path, question: str, steps: list[str], between: str = " ") -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    values, conversation = [], []
    for k, step in enumerate(steps):
        text = question + between + step if k == 0 else step
        conversation += [{"content": text, "role": "user"}, {"content": "+", "role": "assistant"}]
        ids = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
        assert ids[-2] == candidates[0]
        values.append(float(_causal_logits(path, ids, -3)[candidates].softmax(dim=-1)[0]))
    return values


def oracle_qwen_math_prm(path: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    stored = load_file(path / "model.safetensors")
    separator, values = tokenizer.encode("<extra_0>")[0], []
    for k in range(1, len(steps) + 1):
        answer = "<extra_0>".join(steps[:k]) + "<extra_0>"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        state = _last_state(path, ids[: len(ids) - ids[::-1].index(separator)])
        if "score.weight" in stored:
            logits = stored["score.weight"] @ state + stored["score.bias"]
        else:
            hidden = torch.relu(stored["score.0.weight"] @ state + stored["score.0.bias"])
            logits = stored["score.2.weight"] @ hidden + stored["score.2.bias"]
        values.append(float(logits.softmax(dim=-1)[1]))
    return values


def oracle_skywork(path: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    stored = load_file(path / "model.safetensors")
    ids, values = tokenizer.encode(tokenizer.bos_token + question + "\n"), []
    for step in steps:
        ids = [*ids, *tokenizer.encode(step), tokenizer.encode("\n")[-1]]
        logit = stored["v_head.summary.weight"] @ _last_state(path, ids) + stored["v_head.summary.bias"]
        values.append(float(torch.sigmoid(logit)))
    return values


def oracle_token_labels(path: Path, question: str, steps: list[str], *, difference: bool = False) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForTokenClassification.from_pretrained(path, attn_implementation="eager").eval()
    ids, values = [tokenizer.bos_token_id, *tokenizer(question, add_special_tokens=False)["input_ids"]], []
    for step in steps:
        ids = [*ids, *tokenizer(step, add_special_tokens=False)["input_ids"]]
        ids += tokenizer.encode("\n", add_special_tokens=False)
        with torch.no_grad():
            shares = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(dim=-1)
        values.append(float(shares[1] - shares[0] if difference else shares[1]))
    return values


def oracle_reasoneval(path: Path, question: str, steps: list[str], *, redundancy: bool = False) -> list[float]:
    """The script's own count of places: of the ids without separators, to which the BOS is added again where it was one of them."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    stored = load_file(path / "model.safetensors")
    mark = tokenizer.pad_token
    whole = tokenizer(f"{question}\n" + mark + "".join(step + mark for step in steps))["input_ids"]
    separator = tokenizer.convert_tokens_to_ids(mark)
    kept, places, num_separators = [], [], 0
    for index, token in enumerate(whole):
        if token == separator:
            places.append(index - 1 - num_separators)
            num_separators += 1
        else:
            kept.append(token)
    if mark == tokenizer.bos_token:
        kept, places = [separator, *kept], places[2:]
    else:
        places = places[1:]
    values = []
    for place in places:
        logits = stored["score_head.weight"] @ _last_state(path, kept[: place + 1]) + stored["score_head.bias"]
        shares = logits.softmax(dim=-1)
        values.append(float(1 - shares[1] if redundancy else shares[1] + shares[2]))
    return values


ORACLES: dict[str, Callable[[Path, str, list[str]], list[float]]] = {
    "math-shepherd": oracle_math_shepherd,
    "rlhflow": oracle_rlhflow,
    "rlhflow-blank-line": lambda path, question, steps: oracle_rlhflow(path, question, steps, "\n\n"),
    "qwen-math-prm": oracle_qwen_math_prm,
    "skywork-o1": oracle_skywork,
    "trl": oracle_token_labels,
    "pure": lambda path, question, steps: oracle_token_labels(path, question, steps, difference=True),
    "reasoneval": oracle_reasoneval,
    "reasoneval-redundancy": lambda path, question, steps: oracle_reasoneval(path, question, steps, redundancy=True),
}
