"""Tiny random models and a tokenizer, made in memory: the schema is real, the weights are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    Gemma3TextConfig,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from assay.data.tokens.render import Renderer
from assay.models.attention import ATTENTION
from assay.models.backbone import Backbone
from assay.models.bases import convert_gguf
from assay.models.reward_model import RewardModel, new_head
from assay.records import PreferencePair

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# A template that rewrites history: what earlier assistant turns said inside <think> is dropped, the last turn keeps it.
FORGETFUL = (
    "{% for message in messages %}{% set text = message['content'] %}"
    "{% if message['role'] == 'assistant' and not loop.last and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
)
# A template that renders tools, calls and reasoning, as those of reasoning models do.
AGENT = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['reasoning_content'] %}{{ '<think>' + message['reasoning_content'] + '</think>' }}{% endif %}"
    "{{ message['content'] }}{% for call in message['tool_calls'] or [] %}"
    "{{ '\n<call>' + call['function']['name'] + (call['function']['arguments'] | tojson) + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
)
_TEXT = [
    "system user assistant User: Assistant: The quick brown fox jumps over the lazy dog. How do I boil an egg? Put it in water.",
    "What is two and two? It is four, not five. Please tell me a story about a lighthouse keeper and her cat. <think> hmm </think>",
]


def tiny_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 tokens whose pad token is its eos: the first trap."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
    fast.chat_template = template
    return fast


def tiny_config(kind: str):
    shared = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "initializer_range": 0.2,
    }
    if kind == "llama":
        return LlamaConfig(**shared)
    if kind == "qwen":
        return Qwen3Config(**shared)
    if kind == "gemma":
        layers = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
        return Gemma3TextConfig(**shared, sliding_window=8, layer_types=layers, query_pre_attn_scalar=8)
    raise ValueError(kind)


def tiny_backbone(kind: str = "llama", *, seed: int = 0, attention: str = ATTENTION) -> Backbone:
    torch.manual_seed(seed)
    return Backbone(AutoModel.from_config(tiny_config(kind), attn_implementation=attention).eval())


def tiny_model(kind: str = "llama", *, seed: int = 0, num_members: int = 1, attention: str = ATTENTION) -> RewardModel:
    backbone = tiny_backbone(kind, seed=seed, attention=attention)
    return RewardModel(backbone, new_head(backbone.hidden_size, num_members, seed=seed))


def tiny_renderer(template: str | None = CHATML, **settings) -> Renderer:
    return Renderer(tiny_tokenizer(template), **settings)


def save_first_layers(gguf: str, path: Path, *, num_layers: int) -> Path:
    """A real language model cut to its first layers, with its tokenizer: minutes for all thirty are seconds for a few."""
    whole = convert_gguf(Path(gguf))
    AutoModelForCausalLM.from_pretrained(whole, num_hidden_layers=num_layers, dtype=torch.float32).save_pretrained(path)
    AutoTokenizer.from_pretrained(whole).save_pretrained(path)
    return path


def save_tiny_base(path: Path, kind: str = "llama", *, seed: int = 0, max_positions: int = 512) -> Path:
    """A directory that `--base` takes: a random causal language model with its tokenizer."""
    torch.manual_seed(seed)
    config = tiny_config(kind)
    config.max_position_embeddings = max_positions
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def save_tiny_published(
    path: Path, kind: str = "llama", *, num_labels: int = 1, seed: int = 0, template: str | None = CHATML
) -> Path:
    """A reward model as others publish it: transformers' own class and tokenizer, and no file of Assay's."""
    torch.manual_seed(seed)
    config = tiny_config(kind)
    config.num_labels, config.pad_token_id = num_labels, 0
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    tokenizer = tiny_tokenizer(template)
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.save_pretrained(path)
    return path


def pair_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer that joins two texts as those of an encoder's kind do: [CLS] a [SEP] b [SEP], or <s> a </s></s> b </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    is_roberta = kind in ("roberta", "xlm-roberta")
    cls, sep, pad = ("<s>", "</s>", "<pad>") if is_roberta else ("[CLS]", "[SEP]", "[PAD]")
    specials = [cls, pad, sep, "<mask>" if is_roberta else "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXT, trainer)
    pair = f"{cls} $A {sep} {sep} $B {sep}" if is_roberta else f"{cls} $A {sep} $B:1 {sep}:1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=pair, special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)]
    )
    names = ["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=cls, sep_token=sep, pad_token=pad, eos_token=sep, model_input_names=names
    )


def save_tiny_encoder(path: Path, kind: str = "deberta-v2", *, num_labels: int = 1, seed: int = 0) -> Path:
    """An encoder with a classification head, as others publish it."""
    shared = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 130,
        "pad_token_id": 1,
        "initializer_range": 0.2,
        "num_labels": num_labels,
    }
    deberta = {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}
    configs = {
        "deberta-v2": (DebertaV2Config, {**deberta, "position_biased_input": False, "pooler_hidden_size": 32}),
        "roberta": (RobertaConfig, {"type_vocab_size": 1}),
        "xlm-roberta": (XLMRobertaConfig, {"type_vocab_size": 1}),
        "bert": (BertConfig, {"type_vocab_size": 2}),
        "modernbert": (
            ModernBertConfig,
            {"global_attn_every_n_layers": 2, "local_attention": 16, "cls_token_id": 0, "sep_token_id": 2},
        ),
    }
    make, more = configs[kind]
    torch.manual_seed(seed)
    AutoModelForSequenceClassification.from_config(make(**shared, **more)).save_pretrained(path)
    pair_tokenizer(kind).save_pretrained(path)
    return path


def toy_pairs(num_pairs: int, *, first: int = 0, num_prompts: int | None = None) -> list[PreferencePair]:
    """Pairs that one word decides: the chosen answer says water, the rejected one says lazy. Prompts are numbered from `first`."""
    places = ("over the dog", "in the story", "about a cat")
    pairs = []
    for i in range(first, first + num_pairs):
        number = first + (i - first) % (num_prompts or num_pairs)
        chosen, rejected = (f"It is {word} {places[i % 3]}, {i % 7} of two." for word in ("water", "lazy"))
        pairs.append(PreferencePair(prompt=f"Tell me about egg {number}", chosen=chosen, rejected=rejected, id=str(i)))
    return pairs


def labelled_pairs(num_pairs: int) -> list[PreferencePair]:
    """Lengths, margins, weights and soft labels that all differ, so that a misplaced row changes the loss."""
    return [
        replace(
            pair,
            chosen=pair.chosen * (1 + i % 3),
            preference=(1.0, 1.0, 0.5, 0.8)[i % 4],
            margin=(None, 0.5, 1.5)[i % 3],
            weight=(1.0, 0.25, 2.0)[i % 3],
        )
        for i, pair in enumerate(toy_pairs(num_pairs))
    ]
