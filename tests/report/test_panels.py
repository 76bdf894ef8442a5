"""Panels: a picture for each figure, a mark for each finite value, nothing drawn for what is not known."""

from __future__ import annotations

import math
import re

from test_html import table_page

from assay.records import Table

COLUMNS = ("figure", "of", "value", "low", "high")


def panels(*rows: tuple[object, ...]) -> Table:
    return Table(title="three", columns=COLUMNS, rows=rows, chart="panels")


def test_every_figure_has_a_panel_with_a_mark_for_each_finite_value():
    checker = table_page(
        panels(
            ("accuracy", "a", 0.7, 0.6, 0.8),
            ("accuracy", "b", 0.6, math.nan, math.nan),
            ("rise", "a", -0.5, -0.7, -0.3),
            ("rise", "b", math.nan, math.nan, math.nan),
        )
    )
    assert checker.count("svg", "panel") == 2
    assert checker.count("circle", "point") == 3
    assert checker.count("line", "span") == 2
    assert checker.count("text", "nan") == 1
    for shown in ("70.0%", "60.0%", "−0.5"):
        assert shown in checker.text
    assert "1 of 4 values were not measured" in checker.text


def test_a_mark_lies_inside_of_its_panel_and_in_the_order_of_the_values():
    checker = table_page(panels(("rise", "a", 3.7, 3.0, 4.5), ("rise", "b", -1.1, -1.4, -0.9), ("rise", "c", 0.0, -0.1, 0.1)))
    at = [float(str(attrs["cx"])) for tag, attrs in checker.elements if tag == "circle"]
    assert at[1] < at[2] < at[0]
    assert all(0 <= x <= 230 for x in at)
    assert checker.count("line", "origin") == 3, "0 is marked on every row"


def test_odd_rows_still_make_a_page():
    for rows in ((), ((None, None),), (("a", "b", 1e300, "x", 3),), (("a", "b", 0.0, 0.0, 0.0),), (("a", "b", 10**400, 1, 2),)):
        checker = table_page(panels(*rows))
        for _, attrs in checker.elements:
            assert not any(re.search("nan|inf", attrs.get(name) or "") for name in ("x", "cx", "x1", "x2", "y1"))
