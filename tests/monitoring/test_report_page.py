"""The report page is complete, well-formed, and cannot run or fetch anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from finetune.monitoring.report import page
from finetune.monitoring.report.charts import Axes, Line, line_chart, nice_ticks
from finetune.monitoring.report.page import POLICY
from tests.support.reports import HOSTILE, SECTIONS, example

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Records elements, and fails if they are not nested correctly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_all_sections_are_present_and_linked() -> None:
    reader = Reader(page(example()))
    ids = [attributes["id"] for tag, attributes in reader.elements if tag == "section"]
    links = [attributes["href"] for tag, attributes in reader.elements if tag == "a"]
    assert tuple(ids) == SECTIONS
    assert links == [f"#{name}" for name in ids]


def test_user_text_is_displayed_not_executed() -> None:
    reader = Reader(page(example()))
    assert reader.text.count("document.title='run'") >= 10
    assert f"{HOSTILE} is what I say" in reader.text
    assert {tag for tag, _ in reader.elements} & {"script", "link", "iframe", "object", "form"} == set()
    assert [name for _, attributes in reader.elements for name in attributes if name.startswith("on")] == []


def test_page_references_no_external_resource() -> None:
    text = page(example())
    sources = [value for _, attributes in Reader(text).elements for value in (attributes.get("src"),) if value]
    assert [source for source in sources if not source.startswith("data:")] == []
    assert not re.search(r"url\(|@import|https?://", text)
    policies = [attributes["content"] for tag, attributes in Reader(text).elements if "http-equiv" in attributes]
    assert policies == [POLICY]
    assert POLICY.startswith("default-src 'none'")


def with_changes(report: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**report, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": {}, "wrong": {"part": "", "of": 0, "count": 0, "records": []}},
        {"history": [], "rates": {"steps": [], "groups": {}}, "job": {}},
        {"findings": [], "machine_findings": [], "rules": []},
        {"duplicates": {"count": 0, "contradictions": 0, "leaks": [], "groups": [], "unknown": "of the disk"}},
        {"duplicates": {"count": 0, "contradictions": 0, "leaks": [], "groups": []}, "bad_records": {}, "classes": {}},
    ],
)
def test_page_renders_without_optional_data(changes: dict[str, Any]) -> None:
    Reader(page(with_changes(example(), **changes)))


def test_times_of_killed_starts_are_lower_bounds() -> None:
    html = page(example())
    assert "killed start" in html
    assert "at least 6" in html
    uninterrupted = example()
    uninterrupted["interruptions"]["starts"] = 1
    assert "killed start" not in page(uninterrupted)


def test_forgetting_is_reported_with_the_layers() -> None:
    html = page(example())
    assert "Lost 25.0 points" in html
    assert re.search(r"4 records of validation .*75\.0% before training, 50\.0% after", html)


def test_leakage_is_in_verdict_and_section() -> None:
    text = Reader(page(example())).text
    assert "Leakage: 1 record of validation is also in train" in text
    assert "true score is lower" in text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 3.7), (1e-6, 2e-4), (5.0, 5.0), (-3.0, 40.0), (0.0, 0.0)])
def test_ticks_span_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 8


def test_line_chart_with_one_point_or_none() -> None:
    assert "circle" in line_chart([Line("one", [1], [0.5])], Axes("epoch", "loss"))
    assert line_chart([Line("none", [1, 2], [None, float("nan")])], Axes("epoch", "loss")) == ""
