"""A remark behind an answer: it is all of its row that is learnt."""

from __future__ import annotations

import torch

from assay.training.imitation import END, _batch, _tokens, word_tokenizer

TOKENIZER = word_tokenizer(["tea", "milk", "soap", "two"])


def learnt(*row: str) -> list[str]:
    ids, num_asked = _tokens(TOKENIZER, *row)
    return TOKENIZER.convert_ids_to_tokens(ids[num_asked:])


def test_an_answer_is_learnt_with_its_end_and_of_a_row_with_a_remark_the_remark_alone():
    assert learnt("tea milk", "milk soap") == ["milk", "soap", END]
    assert learnt("tea milk", "milk soap", "two") == ["two"]


def test_what_stands_before_a_remark_is_the_conversation_as_a_reward_model_reads_it():
    ids, num_asked = _tokens(TOKENIZER, "tea", "milk", "two")
    said = [{"role": "user", "content": "tea"}, {"role": "assistant", "content": "milk"}]
    assert ids[:num_asked] == TOKENIZER(TOKENIZER.apply_chat_template(said, tokenize=False), add_special_tokens=False)["input_ids"]


def test_the_targets_of_a_batch_are_what_is_learnt():
    rows = [_tokens(TOKENIZER, "tea", "milk", "two"), _tokens(TOKENIZER, "tea", "milk")]
    ids_BL, targets_BL = _batch(rows, TOKENIZER.pad_token_id)
    told = [TOKENIZER.convert_ids_to_tokens(ids[targets != -100]) for ids, targets in zip(ids_BL, targets_BL, strict=True)]
    assert told == [["two"], ["milk", END]]
    assert torch.equal(ids_BL[targets_BL != -100], targets_BL[targets_BL != -100])
