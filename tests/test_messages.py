"""Names from users' data cannot move the cursor, start a new line, or look like a metric."""

from __future__ import annotations

import logging
import re

import pytest

from finetune.errors import UserError
from finetune.messages import Lines, MetricLine, SafeRecord, one_line, printable, several_lines
from finetune.monitoring.metric_lines import METRICS, final_line, metric_line
from finetune.monitoring.report.markup import tag
from finetune.sagemaker.failure import Failure, failure_of

CONTROLS = "\x1b\x07\x00\r\u2028\u2029\u202e\u2066\x9b\x7f\ud800\ufeff"


def logged(name: str, message: str, *args: object) -> str:
    return SafeRecord(name, logging.INFO, __file__, 1, message, args, None).getMessage()


@pytest.mark.parametrize("character", CONTROLS)
def test_control_characters_are_escaped(character: str) -> None:
    for escape in (one_line, several_lines, printable):
        shown = escape(f"a{character}b")
        assert shown.startswith("a\\")
        assert shown.endswith("b")
        assert shown.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate=0.01",
        "straße",
        "日本語",
        "a b",
        "👩\u200d💻",
        "x=y;",
        "max=3, then",
        "validation_fraction=0.01; change it",
    ],
)
def test_printable_text_without_metrics_is_unchanged(text: str) -> None:
    assert one_line(text) == several_lines(text) == text


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_definitions_do_not_match_escaped_text(metric: object) -> None:
    name, expression = metric.name, metric.regex  # type: ignore[attr-defined]
    text = f"{name}=0.990000;"
    assert re.search(expression, text)
    assert not re.search(expression, one_line(f"<{text}>"))
    assert not re.search(rf"{name}=([0-9.]+)", several_lines(f"two\n{text} {text}"))
    assert not re.search(rf"{name}=([0-9.]+)", one_line(f"two\n{text} {text}"))


def test_metric_lines_are_logged_unchanged() -> None:
    line = metric_line(0, {"validation:accuracy": 0.5})
    assert logged("finetune.job.plan_summary", "%s", line) == line
    assert logged("finetune.job.run", "%s", final_line({"test": {"loss": 1.0}})) == "final; test:loss=1.000000;"
    assert isinstance(line, MetricLine)


def test_line_ends_of_arguments_are_escaped_in_own_messages() -> None:
    assert logged("finetune.x", "class %s\nis left out", "a\nDone.") == "class a\\nDone.\nis left out"
    assert logged("finetune.x", "%s: %r %d %.2f", ValueError("a\nb"), "c\n", 3, 0.5) == "a\\nb: 'c\\n' 3 0.50"
    assert logged("finetune.x", "%s", Lines("Plan\n  task")) == "Plan\n  task"


def test_metrics_of_other_libraries_are_escaped() -> None:
    shown = logged("sagemaker-training-toolkit", "value %s\nof %s", "validation:accuracy=0.9;", "\x1b[K")
    assert shown == "value validation:accuracy\\x3d0.9;\nof \\x1b[K"


def test_failure_messages_are_escaped() -> None:
    assert Failure("a\x1b\nvalidation:loss=0.1;", 1, expected=True).message == "a\\x1b\nvalidation:loss\\x3d0.1;"
    assert failure_of(UserError("class 'a'\nb")).message == "class 'a'\\nb"
    assert failure_of(UserError(Lines("one\ntwo"))).message == "one\ntwo"
    assert failure_of(KeyError("a\nvalidation:loss=0.1;")).message.splitlines()[1].startswith("This is a bug")


def test_failure_message_length_is_limited() -> None:
    failure = failure_of(UserError("x" * 10**6))
    assert len(failure.message) < 70_000


def test_report_escapes_control_characters() -> None:
    assert tag("p", "a\u202eb<\x1b", title="\x07") == '<p title="\\x07">a\\u202eb&lt;\\x1b</p>'
