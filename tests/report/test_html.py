"""The page: nothing breaks out of it, everything finished is on it, and what could not be computed is never a zero."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from assay.messages import Message, ToolCall
from assay.records import Finding, Metric, Report, Table
from assay.report.charts import round_ticks
from assay.report.html import render_html, write_html
from assay.report.text import escape, number, places, visible
from assay.wire import report_from_json, report_to_json

NAN = math.nan
VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = (
    '<script>alert(1)</script>" onload="x\' </style></svg></details></title><!-- -->]]> &lt; \x00\x1b\x7f\x85 '
    "\u202e\u2066 \ud800 \ufffe 🧪\r\nend"
)


class Checker(HTMLParser):
    """Parses a page, insists on balanced tags, and keeps its elements and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice on {tag}: {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, css: str) -> int:
        return sum(name == tag and css in (attrs.get("class") or "").split() for name, attrs in self.elements)


def page_of(*reports: Report) -> Checker:
    return Checker(render_html(reports, title="A page"))


def table_page(table: Table) -> Checker:
    return page_of(Report(title="r", tables=(table,)))


def full_report(text: str = "plain") -> Report:
    """A report that holds `text` in every field that takes text, and every kind of chart."""
    return Report(
        title=text,
        metrics=(Metric(text, 0.7342, 0.71, 0.76, 1585, 1600, text), Metric(text, NAN, note=text), Metric(text, 3)),
        tables=(
            Table(
                title=text,
                columns=(text, "n", "accuracy", "low", "high"),
                rows=((text, 3, 0.5, 0.4, 0.6), (text, 1, NAN, NAN, None)),
            ),
            Table(title=text, columns=(text, text), rows=((text, 0.5), (text, NAN)), chart="line", note=text),
            Table(title=text, columns=(text, text), rows=((text, 0.5), (text, None)), chart="bars", note=text),
            Table(
                title=text,
                columns=("predicted", "observed", "low", "high", "n"),
                rows=((0.5, 0.4, 0.3, 0.5, 9),),
                chart="reliability",
            ),
        ),
        examples=(
            {"kind": text, "prompt": text, "chosen": text, "rejected": text * 40, "margin": NAN, "id": text, text: text},
            {
                "kind": text,
                "prompt": ((Message("user", text), Message("assistant", text)) * 4),
                "chosen": text,
                "tags": {text: text},
            },
        ),
        findings=(Finding("fail", text, 0.1, 0.2, text), Finding("warn", text, NAN, NAN, text), Finding("ok", text, 1, 0, text)),
        facts={text: text},
    )


def test_planted_markup_stays_text() -> None:
    page = render_html([full_report(NASTY), full_report(NASTY)], title=NASTY)
    page.encode("utf-8")
    checker, plain = Checker(page), Checker(render_html([full_report(), full_report()], title="plain"))
    tags = {tag for tag, _ in checker.elements}
    assert tags <= {tag for tag, _ in plain.elements} | {"details", "summary"}
    assert not tags & {"script", "link", "img", "iframe", "base", "form"}
    for tag, attrs in checker.elements:
        assert not [name for name in attrs if name.startswith("on") or name == "style"], (tag, attrs)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\ud800-\udfff]", page)
    assert page.count("</style>") == 1
    assert "<script>alert(1)</script>" in checker.text
    assert "⟦U+202E⟧" in checker.text
    assert "⟦U+D800⟧" in checker.text


def test_page_asks_nothing_of_the_network() -> None:
    page = render_html([full_report()], title="A page")
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"https?://|url\(|@import|src=", page)
    for _, attrs in Checker(page).elements:
        assert (attrs.get("href") or "#").startswith("#")


def test_ids_are_unique_and_every_reference_resolves() -> None:
    elements = page_of(full_report(), full_report()).elements
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {name for _, attrs in elements for name in (attrs.get("aria-labelledby") or "").split()}
    wanted |= {(attrs.get("href") or "")[1:] for tag, attrs in elements if tag == "a"}
    assert wanted <= set(ids)


def test_every_metric_is_there_with_interval_and_counts() -> None:
    metrics = (
        Metric("accuracy", 0.7342, 0.7108, 0.7561, 1585, 1600, "15 too long"),
        Metric("mean margin", -1.0931, -1.18, -1.01, 12, 12),
        Metric("tokens", 18_400_312),
        Metric("tiny", 3.2e-11),
    )
    text = page_of(Report(title="r", metrics=metrics)).text
    for metric in metrics:
        assert metric.name in text
    for shown in ("0.734 [ 0.711 , 0.756 ]", "1,585 / 1,600", "15 too long", "−1.093 [ −1.180 , −1.010 ]", "18,400,312", "3.2e−11"):
        assert shown in text
    page = render_html([Report(title="r", metrics=metrics)], title="t")
    assert '<data value="0.7342">' in page


def test_what_could_not_be_computed_is_said_and_is_not_zero() -> None:
    report = Report(
        title="report",
        metrics=(Metric("agreement", NAN, NAN, NAN, 5, 7, "two raters are needed"),),
        tables=(Table(title="table", columns=("slice", "accuracy"), rows=(("code", NAN), ("maths", None))),),
        examples=({"kind": "worst", "prompt": "p", "chosen": "a", "rejected": "b", "margin": NAN},),
        findings=(Finding("warn", "drift", NAN, NAN, "too few rows"),),
    )
    checker = page_of(report)
    assert checker.text.count("could not be computed") == 3
    assert "two raters are needed" in checker.text
    assert "no threshold" in checker.text
    assert checker.text.count("n/a") == 3  # two cells, and the foot of the page
    assert not [attrs for tag, attrs in checker.elements if tag == "data"]
    assert "0" not in re.findall(r"(?<![\w.])0(?![\w.])", checker.text.replace("0.1.0", ""))


def test_line_chart_has_one_point_for_each_finite_value_and_breaks_at_gaps() -> None:
    rows = tuple((step, NAN if step == 4 else 1 / (step + 1), NAN, float("inf")) for step in range(10))
    table = Table(title="loss", columns=("step", "train", "nothing", "infinite"), rows=rows, chart="line")
    page = render_html([Report(title="r", tables=(table,))], title="t")
    checker = Checker(page)
    assert checker.count("circle", "point") == 9 + 3  # and one in each entry of the legend
    (path,) = [
        attrs["d"]
        for tag, attrs in checker.elements
        if tag == "path" and attrs.get("class") == "line" and "M1 6" not in str(attrs["d"])
    ]
    assert str(path).count("M") == 2
    assert "21 of 30 values were not measured or could not be computed" in checker.text
    assert "(could not be computed)" in checker.text
    assert all(name in checker.text for name in table.columns)


def test_a_series_measured_now_and_then_is_joined_up() -> None:
    rows = tuple((step, float(step), step / 2 if step % 3 == 0 else NAN) for step in range(12))
    checker = table_page(Table(title="t", columns=("step", "train", "held-out"), rows=rows, chart="line"))
    paths = [str(attrs["d"]) for tag, attrs in checker.elements if tag == "path" and attrs.get("class") == "line"][2:]
    assert [(path.count("M"), path.count("L")) for path in paths] == [(1, 11), (1, 3)]


@pytest.mark.parametrize(
    "labels", [("a", "b", "c"), (-0.5, 0.0, 0.5), ("-0.5", "0.0", "0.5"), ("a long label", "another one", "<third & last>")]
)
def test_bar_chart_has_one_bar_for_each_finite_row(labels: tuple[object, ...]) -> None:
    rows = tuple(zip(labels, (3, NAN, -2), strict=True))
    checker = table_page(Table(title="bars", columns=("label", "height"), rows=rows, chart="bars"))
    assert checker.count("rect", "bar") == 2
    assert checker.count("text", "nan") == 1
    assert checker.count("line", "zero") == (not str(labels[0]).startswith(("a", "<")))


def test_bar_heights_are_to_scale_and_carry_whiskers() -> None:
    rows = (("a", 1.0, 0.5, 1.5), ("b", 2.0, 1.5, 2.5))
    checker = table_page(Table(title="t", columns=("x", "y", "low", "high"), rows=rows, chart="bars"))
    heights = [float(str(attrs["height"])) for tag, attrs in checker.elements if tag == "rect"]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert sum(attrs.get("class") == "whisker" and tag == "path" for tag, attrs in checker.elements) == 2


def test_reliability_diagram_draws_points_whiskers_and_diagonal_with_area_by_n() -> None:
    rows = ((0.1, 0.2, 0.1, 0.3, 100), (0.5, NAN, NAN, NAN, 0), (0.9, 0.8, NAN, NAN, 400))
    table = Table(title="r", columns=("predicted", "observed", "low", "high", "n"), rows=rows, chart="reliability")
    checker = table_page(table)
    points = [attrs for tag, attrs in checker.elements if tag == "circle" and attrs.get("class") == "point area"]
    radii = [float(str(point["r"])) for point in points]
    assert len(points) == 2
    assert radii[1] == pytest.approx(2 * radii[0], abs=0.1)
    assert checker.count("path", "diagonal") == 1
    assert checker.count("path", "whisker") == 1
    x, y = float(str(points[0]["cx"])), float(str(points[0]["cy"]))
    assert (x, y) == (56 + 0.1 * 320, 28 + 0.8 * 320)


@pytest.mark.parametrize("chart", ["line", "bars", "reliability"])
def test_charts_keep_their_numbers_and_their_names(chart: str) -> None:
    table = Table(title="Figure one", columns=("predicted", "observed"), rows=((0.125, 0.375), (0.25, 0.5)), chart=chart)  # type: ignore[arg-type]
    checker = table_page(table)
    svg = next(attrs for tag, attrs in checker.elements if tag == "svg" and attrs.get("role") == "img")
    assert svg["aria-labelledby"] == "report-1-table-1-title report-1-table-1-about"
    assert ("details", {}) in checker.elements
    cells = [attrs["value"] for tag, attrs in checker.elements if tag == "data"]
    assert cells == ["0.125", "0.375", "0.25", "0.5"]
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in checker.elements if tag == "th")


@pytest.mark.parametrize("chart", ["none", "line", "bars", "reliability"])
@pytest.mark.parametrize(
    "rows",
    [
        (),
        ((NAN, NAN), (None, "x")),
        ((1, 2, 3, 4, 5, 6, 7), (1,)),
        ((1, 1e300), (2, 10**400)),
        ((5.0, 0.0), (5.0, 0.0)),
        ((0, 1.0), (1, 1.0 + 1e-16)),
        ((np.float32(0.5), np.int64(3)), (np.bool_(True), True)),
        ((0.0, 5e-324), (1e-320, 0.0)),
    ],
    ids=["none", "nan", "ragged", "huge", "flat", "nearly flat", "numpy", "denormal"],
)
def test_odd_tables_still_make_a_page(chart: str, rows: tuple[tuple[object, ...], ...]) -> None:
    checker = table_page(Table(title="odd", columns=("predicted", "observed"), rows=rows, chart=chart))  # type: ignore[arg-type]
    for _, attrs in checker.elements:
        for name in ("x", "y", "cx", "cy", "x1", "y1", "x2", "y2", "width", "height", "d"):
            assert not re.search("nan|inf", attrs.get(name) or ""), attrs


def test_findings_come_worst_first_and_the_index_names_every_report() -> None:
    one = Report(title="first report", findings=(Finding("ok", "fine", 0.9, 0.5, "good"), Finding("warn", "hmm", 0.4, 0.5, "look")))
    two = Report(title="second report", findings=(Finding("fail", "broken", 0.1, 0.5, "bad"),))
    text = page_of(one, two).text
    assert "Of 3 checks: 1 failed, 1 to look at, 1 passed." in text
    assert text.index("broken") < text.index("hmm") < text.index("fine")
    assert text.index("Verdict") < text.index("fine") < text.rindex("first report") < text.rindex("second report")
    folded = [attrs for tag, attrs in page_of(one, two).elements if tag == "details" and attrs.get("class") == "report"]
    assert len(folded) == 2
    assert "None: these reports hold no checks" in page_of(Report(title="r")).text


def test_tool_calls_and_reasoning_of_a_prompt_are_shown() -> None:
    called = Message("assistant", "", (ToolCall("look_up", '{"q": "<egg>"}'),), reasoning="I do not know.")
    for prompt in ((called,), [called.as_dict()]):
        page = render_html([Report(title="r", examples=({"kind": "worst", "prompt": prompt, "chosen": "a"},))], title="t")
        assert "look_up" in page
        assert "I do not know." in page
        assert "<egg>" not in page


def test_examples_take_prompts_in_every_form_and_fold_what_is_long() -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")]
    report = Report(
        title="r",
        examples=(
            {
                "kind": "worst",
                "prompt": tuple(Message(*turn) for turn in turns),
                "chosen": "word " * 400,
                "rejected": "",
                "margin": -0.5,
            },
            {
                "kind": "best",
                "prompt": [{"role": "user", "content": "as a mapping"}],
                "chosen": "yes",
                "rejected": "no",
                "margin": 2.25,
            },
        ),
    )
    checker = page_of(report_from_json(report_to_json(report)))
    text = checker.text
    for shown in (
        "2 earlier turns",
        "five",
        "as a mapping",
        "show all 2,000 characters",
        "(empty)",
        "prefers the rejected answer",
        "2.25",
    ):
        assert shown in text
    assert text.count("word") == 400 + 64  # the whole of it, and the preview


def test_write_replaces_the_page_at_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "made" / "report.html"
    write_html(path, [full_report("first")], "one")
    write_html(path, [full_report(NASTY)], "two")
    assert "<title>two</title>" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no report"):
        write_html(path, [], "three")
    assert path.read_bytes() == before


def test_numbers_are_never_rounded_to_zero() -> None:
    assert [number(value) for value in (0.0, -0.0, 0.5, 1e-12, -1e-12, 12345.678, 1e12, NAN, math.inf)] == [
        *("0", "0", "0.5", "1e-12", "-1e-12", "12,346", "1e+12", "n/a", "∞")
    ]
    assert [number(value, places([12.5, value])) for value in (0.004, 0.0004, -3.47e-08)] == ["0.004", "<0.001", ">-0.001"]
    assert number(3.47e-08, places([0.02, 3.47e-08])) == "<0.0001"
    assert number(0.3, places([5000, 0.3])) == "0.3"
    assert number(3.47e-08, places([3.47e-08])) == "3.47e-08"  # alone it is what was found
    assert number(np.int64(1234)) == "1,234"


def test_visible_keeps_line_ends_and_ordinary_scripts() -> None:
    assert visible("a\r\nb\tc שלום 🧪") == "a\nb\tc שלום 🧪"
    assert escape("<\u202e>") == "&lt;⟦U+202E⟧&gt;"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-4.2, 6.1), (0.6931, 0.6944), (1e-7, 3e-7), (0, 18e6)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 3 <= len(ticks) <= 9
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)
    step = ticks[1] - ticks[0]
    assert step / 10 ** math.floor(math.log10(step * 1.0001)) == pytest.approx(1) or step / 10 ** math.floor(
        math.log10(step * 1.0001)
    ) == pytest.approx(2, abs=3.01)


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0.94, 4.06, [1, 2, 3, 4]), (0.9, 2.1, [1, 2]), (0, 64, [0, 10, 20, 30, 40, 50, 60])]
)
def test_what_is_counted_has_whole_ticks(low: float, high: float, ticks: list[int]) -> None:
    assert round_ticks(low, high, whole=True) == ticks


def test_reports_are_rendered_without_torch() -> None:
    code = "import sys, assay.report.html, assay.report.card; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_curves_are_joined_through_their_own_points_and_lines_are_broken_where_a_row_has_none():
    rows = ((0.0, 1.0, math.nan), (1.0, 2.0, math.nan), (2.0, math.nan, 5.0), (3.0, math.nan, 6.0), (4.0, 3.0, math.nan))
    strokes = {}
    for kind in ("line", "curves"):
        table = Table(title="t", columns=("x", "a", "b"), rows=rows, chart=kind)
        page = render_html([Report(title="r", tables=(table,))], title="r")
        paths = re.findall(r'<path class="line" d="(M\d[^H"]*)"', page)  # those of the legend are horizontal
        strokes[kind] = [(path.count("M"), path.count("L")) for path in paths]
        assert page.count('class="point" cx=') >= 5
    assert strokes["line"][-2:] == [(2, 1), (1, 1)]
    assert strokes["curves"][-2:] == [(1, 2), (1, 1)]


def test_a_response_stands_below_its_prompt_however_short_it_is():
    long = "a longer answer " * 8
    examples = tuple({"kind": "best", "prompt": "p", "response": text, "reward": 1.0} for text in ("Tea.", long, ""))
    page = render_html([Report(title="r", examples=examples)], title="t")
    assert page.count("<h4>Response</h4>") == 3
    assert "response <b>" not in page
