"""Lines of the log become epochs, durations and texts."""

from __future__ import annotations

from pathlib import Path

from finetune.local.log_events import Epoch, EpochDuration, FinalMetrics, LogFollower, Text, parse_line
from finetune.monitoring.metric_lines import final_line, metric_line, solved_line


def test_metric_lines_are_parsed() -> None:
    metrics = {"train:loss": 0.25, "validation:micro_f1": 0.5}
    assert parse_line(metric_line(2, metrics)) == Epoch(3, metrics)
    assert parse_line(solved_line(metrics)) == Epoch(0, metrics)
    assert parse_line(final_line({"test": {"accuracy": 0.75}})) == FinalMetrics({"test:accuracy": 0.75})
    assert parse_line("epoch 3 took 3 min 20 s") == EpochDuration(3, "3 min 20 s")
    assert parse_line("epoch=x; train:loss=1;") == Text("epoch=x; train:loss=1;")


def test_only_new_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_text("old\n", encoding="utf-8")
    follower = LogFollower(path)
    with path.open("a", encoding="utf-8") as file:
        file.write("first\nsec")
        file.flush()
        assert list(follower.lines()) == ["first"]
        file.write("ond\nlast")
    assert list(follower.lines()) == ["second"]
    assert list(follower.lines(to_end=True)) == ["last"]
    follower.close()
