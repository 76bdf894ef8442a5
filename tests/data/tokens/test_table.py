"""The token table: what goes in comes out, what cannot is counted, and memory does not grow with the pairs."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from assay.data.tokens.render import Rendered
from assay.data.tokens.table import CHUNK_ROWS, PairTable, build_table
from assay.errors import DataError
from assay.messages import Message
from assay.records import PreferencePair
from tiny import CHATML, tiny_renderer, toy_pairs

PAIRS = [
    PreferencePair(prompt="What is two and two?", chosen="It is four.", rejected="It is five.", margin=0.5, weight=2.0),
    PreferencePair(prompt="How do I boil an egg?", chosen="Put it in water.", rejected="not", preference=0.5),
    PreferencePair(prompt="What is two and two?", chosen="four", rejected="a story " * 40, preference=0.75),
]


def test_what_goes_in_comes_out(tmp_path):
    renderer = tiny_renderer()
    table, count = build_table(PAIRS, renderer, tmp_path / "deep" / "pairs.arrow")
    assert len(table) == count.num_pairs == 3
    lengths = []
    for i, pair in enumerate(PAIRS):
        chosen, rejected = renderer.render(pair.completions())
        row = table[i]
        assert row.chosen.tolist() == chosen.tokens.tolist()
        assert row.rejected.tolist() == rejected.tokens.tolist()
        assert row.chosen.dtype == row.rejected.dtype == row.reward_positions.dtype == np.int32
        assert row.reward_positions.tolist() == [len(chosen.tokens) - 1, len(rejected.tokens) - 1]
        lengths.append([len(chosen.tokens), len(rejected.tokens)])
    assert table.lengths.tolist() == lengths
    assert count.num_tokens == np.sum(lengths)
    assert table.preference.tolist() == [1.0, 0.5, 0.75]
    assert table.weight.tolist() == [2.0, 1.0, 1.0]
    assert table.margin[0] == 0.5
    assert np.isnan(table.margin[1:]).all()
    assert table.prompt[0] == table.prompt[2] != table.prompt[1]
    assert int(table.prompt[0]) == int(PAIRS[0].prompt_key[:16], 16)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["pairs.arrow", "pairs.json"]


def test_a_row_as_one_group_or_as_two_lone_sequences(tmp_path):
    table, _ = build_table(PAIRS, tiny_renderer(), tmp_path / "pairs.arrow")
    row = table[0]
    (group,) = table.groups(0, share=True)
    assert group.tokens[group.reward_positions].tolist() == [row.chosen[-1], row.rejected[-1]]
    assert len(group.tokens) < len(row.chosen) + len(row.rejected)
    chosen, rejected = table.groups(0, share=False)
    assert (chosen.tokens.tolist(), rejected.tokens.tolist()) == (row.chosen.tolist(), row.rejected.tolist())


def test_rows_are_found_beyond_the_first_chunk(tmp_path):
    renderer = tiny_renderer()
    pairs = toy_pairs(CHUNK_ROWS * 2 + 3)
    table, _ = build_table(iter(pairs), renderer, tmp_path / "pairs.arrow")
    for row in (0, CHUNK_ROWS - 1, CHUNK_ROWS, 2 * CHUNK_ROWS + 2):
        assert table[row].chosen.tolist() == renderer.render(pairs[row].completions())[0].tokens.tolist()
    with pytest.raises(IndexError):
        table[len(pairs)]


def test_values_are_mapped_from_the_file_not_copied(tmp_path):
    table, _ = build_table(PAIRS, tiny_renderer(), tmp_path / "pairs.arrow")
    assert not table[0].chosen.flags.owndata
    assert not table[0].chosen.flags.writeable


def test_pairs_set_aside_are_counted_by_reason(tmp_path):
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    renderer = tiny_renderer(template, max_length=24, overlong="set_aside")
    system = PreferencePair(prompt=(Message("system", "s"), Message("user", "u")), chosen="a", rejected="b")
    empty = PreferencePair(prompt="q", chosen="a", rejected=" ")
    long = [PreferencePair(prompt="q", chosen="a", rejected="water " * size) for size in (30, 40)]
    good = PreferencePair(prompt="q", chosen="a", rejected="b")
    table, count = build_table([system, empty, *long, good], renderer, tmp_path / "pairs.arrow")
    assert len(table) == count.num_pairs == 1
    assert count.set_aside == {
        "the chat template refused the conversation: no system": 1,
        "the response is empty": 1,
        "longer than max_length": 2,
    }
    assert count.num_cut == 0
    assert "2 pairs set aside: longer than max_length" in count.summary()
    _, cut = build_table([*long, good], tiny_renderer(max_length=24), tmp_path / "cut.arrow")
    assert (cut.num_pairs, cut.num_cut) == (3, 2)
    assert "2 pairs cut at the front to fit" in cut.summary()


def test_what_the_template_leaves_out_is_counted(tmp_path):
    thinking = (Message("user", "q"), Message("assistant", "a", reasoning="hm"), Message("user", "r"))
    told = PreferencePair(prompt=thinking, chosen="a", rejected="b")
    thought = PreferencePair(
        prompt="q", chosen="a", rejected="b", rejected_message=Message("assistant", "b", reasoning="hm"), tools=({"name": "f"},)
    )
    table, count = build_table([told, told, thought, PAIRS[0]], tiny_renderer(), tmp_path / "pairs.arrow")
    assert len(table) == 3
    assert count.left_out == {"the prompt's reasoning": 2}
    assert "2 pairs in which the chat template leaves out the prompt's reasoning" in count.summary()
    assert "1 pairs set aside: the chat template leaves out the answer's reasoning" in count.summary()


def test_without_a_pair_there_is_no_table(tmp_path):
    empty = PreferencePair(prompt="q", chosen="", rejected="b")
    with pytest.raises(DataError, match="1 pairs set aside: the response is empty"):
        build_table([empty], tiny_renderer(), tmp_path / "pairs.arrow")
    assert list(tmp_path.iterdir()) == []


def test_splits(tmp_path):
    names = {"What is two and two?": "train", "How do I boil an egg?": "a split with a long name"}
    table, _ = build_table(PAIRS, tiny_renderer(), tmp_path / "pairs.arrow", split=lambda pair: names[pair.prompt[0].content])
    assert table.rows("train").tolist() == [0, 2]
    assert table.rows("a split with a long name").tolist() == [1]
    assert table.rows("test").tolist() == []


def test_a_fingerprint_is_of_the_content(tmp_path):
    def fingerprint(pairs, name, split="train"):
        return build_table(pairs, tiny_renderer(), tmp_path / f"{name}.arrow", split=lambda pair: split)[0].fingerprint

    same = fingerprint(PAIRS, "a")
    assert fingerprint(PAIRS, "b") == same == PairTable(tmp_path / "a.arrow").fingerprint
    first = PAIRS[0]
    changed = [
        PreferencePair(prompt="What is two and two?", chosen="It is four!", rejected="It is five.", margin=0.5, weight=2.0),
        PreferencePair(prompt=first.prompt, chosen=first.rejected, rejected=first.chosen, margin=0.5, weight=2.0),
        PreferencePair(prompt=first.prompt, chosen=first.chosen, rejected=first.rejected, margin=0.25, weight=2.0),
        PreferencePair(prompt=first.prompt, chosen=first.chosen, rejected=first.rejected, margin=0.5, weight=1.0),
        PreferencePair(prompt=first.prompt, chosen=first.chosen, rejected=first.rejected, margin=0.5, weight=2.0, preference=0.9),
    ]
    others = [fingerprint([pair, *PAIRS[1:]], str(i)) for i, pair in enumerate(changed)]
    others += [fingerprint(PAIRS[:2], "fewer"), fingerprint(PAIRS[::-1], "order"), fingerprint(PAIRS, "split", "test")]
    assert len({same, *others}) == 1 + len(others)


@pytest.mark.parametrize("damage", ["missing", "cut", "no note", "bad note"])
def test_a_damaged_table_is_refused(tmp_path, damage):
    path = tmp_path / "pairs.arrow"
    build_table(PAIRS, tiny_renderer(), path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "no note":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("{")
    with pytest.raises(DataError, match="is not a token table"):
        PairTable(path)


def test_a_build_that_is_broken_off_leaves_the_old_table(tmp_path):
    path = tmp_path / "pairs.arrow"
    before, _ = build_table(PAIRS, tiny_renderer(), path)

    def broken():
        yield PAIRS[0]
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        build_table(broken(), tiny_renderer(), path)
    assert PairTable(path).fingerprint == before.fingerprint
    assert json.loads(path.with_suffix(".json").read_text())["num_pairs"] == 3


def resident_bytes() -> int:
    """Resident memory of this process that is not a mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class _Plain:
    """A renderer as fast as can be: the memory is the table's to answer for."""

    def render(self, completions):
        ends = [len(completion.response) for completion in completions]
        return [Rendered(np.arange(end, dtype=np.int32), np.array([end - 1], np.int32)) for end in ends]


def pairs_like(pair: PreferencePair, num_pairs: int, watch=lambda: None):
    for i in range(num_pairs):
        if i % 20_000 == 0:
            watch()
        yield pair


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_pairs(tmp_path):
    num_pairs = 200_000
    pair = PreferencePair(prompt="q", chosen="c" * 80, rejected="r" * 100)
    build_table(pairs_like(pair, CHUNK_ROWS), _Plain(), tmp_path / "warm.arrow")
    gc.collect()
    before, seen = resident_bytes(), []
    table, _ = build_table(pairs_like(pair, num_pairs, lambda: seen.append(resident_bytes())), _Plain(), tmp_path / "pairs.arrow")
    assert len(table) == num_pairs
    assert table.path.stat().st_size > 720 * num_pairs  # 150 MB on the disk
    assert max(seen) - before < 30e6, "while it is built: one chunk and the writer's own"
    rows = np.random.default_rng(0).integers(0, num_pairs, 2000)
    assert all(table[int(row)].chosen.shape == (80,) for row in rows)
    gc.collect()
    assert resident_bytes() - before < 60e6, "while it is read: the columns, at most 100 bytes a pair"


@pytest.mark.slow
def test_python_holds_one_chunk_at_a_time(tmp_path):
    def peak(num_pairs: int) -> int:
        pair = PreferencePair(prompt="q", chosen="c" * 80, rejected="r" * 100)
        tracemalloc.start()
        list(build_table(pairs_like(pair, num_pairs), _Plain(), tmp_path / "pairs.arrow")[0].rows("train"))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(10)
    assert peak(30 * CHUNK_ROWS) < 1.5 * peak(5 * CHUNK_ROWS)


def test_pairs_that_give_the_same_tokens_are_set_aside_with_an_example(tmp_path):
    """A template that drops thoughts, as DeepSeek-R1's distilled models have; and answers that differ only where they are cut."""
    template = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    thoughts = [f"<think>{thought}</think>It is the starch." for thought in ("Starch.", "Thieves.")]
    thought = PreferencePair(prompt="q", chosen=thoughts[0], rejected=thoughts[1], source="set", id="8")
    table, count = build_table([thought, PAIRS[0]], tiny_renderer(template), tmp_path / "thought.arrow")
    assert len(table) == count.num_pairs == 1
    reason = "chosen and rejected are the same tokens: the chat template leaves out what they differ in"
    assert count.set_aside == {reason: 1}
    assert count.examples == {reason: thought}
    tail = " water" * 60
    cut = PreferencePair(prompt="q", chosen="Good." + tail, rejected="Bad." + tail)
    table, count = build_table([cut, PAIRS[0]], tiny_renderer(max_length=48), tmp_path / "cut.arrow")
    assert len(table) == 1
    assert count.num_cut == 0
    assert count.set_aside == {"chosen and rejected are the same tokens: what they differ in was cut off to fit max_length": 1}
    with pytest.raises(DataError, match=r"set 8: prompt 'q', chosen '<think>Starch") as caught:
        build_table([thought], tiny_renderer(template), tmp_path / "none.arrow")
    assert "1 pairs set aside: chosen and rejected are the same tokens" in str(caught.value)
