"""Why nothing was read: reasons, counts, first lines, a row of each, and what to do."""

from __future__ import annotations

import json

from assay.data.pairs import read_pairs
from assay.data.set_aside import remedy, why_no_pairs


def test_each_reason_has_its_count_lines_a_row_and_a_remedy(tmp_path):
    rows = [{"prompt": "q " * 200, "chosen": "same", "rejected": "same"}] * 3 + [{"prompt": "q", "chosen": "", "rejected": "b"}]
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"broken\n')
    reader = read_pairs(file)
    assert list(reader) == []
    lines = why_no_pairs([reader]).splitlines()
    assert lines[0] == f"{file}: 5 rows -> 0 pairs; form: explicit (4 rows)"
    assert lines[1].startswith("  3 set aside: identical pair (lines 1, 2, 3): ")
    assert lines[2].startswith('    line 1: {"prompt": "q q')
    assert '"chosen": "same"' in lines[2]
    assert len(lines[2]) < 700
    assert "nothing can be learnt" in lines[1]
    assert lines[3].startswith("  1 set aside: empty (line 4): ")
    assert lines[6] == '    line 5: {"broken'


def test_a_file_without_rows_says_so(tmp_path):
    (tmp_path / "set.jsonl").write_text("\n")
    reader = read_pairs(tmp_path / "set.jsonl")
    assert list(reader) == []
    assert why_no_pairs([reader]).endswith("the file has no rows")


def test_a_reason_that_says_it_all_gets_no_remedy():
    assert remedy("the moon is full") == ""
    assert remedy("no counterpart").startswith(": ")
