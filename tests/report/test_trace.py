"""The coloured text of a trace: nothing breaks out of it, and the shade goes by the change."""

from __future__ import annotations

import math
import re

from assay.records import Report
from assay.report.html import render_html
from assay.report.trace import trace_html
from assay.wire import report_from_json, report_to_json


def shades(trace: object) -> list[str]:
    return re.findall(r'<span class="(\w+)"', trace_html(trace))


def test_shades_follow_the_change_from_the_token_before():
    trace = [["It", 0.0], [" is", 0.05], [" two", 1.05], [" or", 0.65], [" so", 0.64], [" on", math.nan], [" on", 1.0]]
    assert shades(trace) == ["level", "level", "up3", "down2", "level", "level", "level"]


def test_what_is_no_trace_gives_nothing_and_a_flat_one_has_no_shade():
    assert [trace_html(nothing) for nothing in (None, "text", [], 3)] == [""] * 4
    assert shades([["a", 1.0], ["b", 1.0]]) == ["level", "level"]


def test_tokens_are_escaped_on_the_page_and_stand_there_once():
    nasty = '</span><script>alert(1)</script>"'
    report = Report(title="t", examples=({"kind": "by token", "prompt": "two?", "trace": [[nasty, 0.5], ["\x1b[0m", None]]},))
    for shown in (report, report_from_json(report_to_json(report))):
        page = render_html([shown], title="t")
        assert "<script>" not in page
        assert page.count("alert(1)") == 1
        assert "⟦U+001B⟧" in page
        assert 'title="reward 0.5"' in page
        assert 'title="reward n/a"' in page
