"""Evaluating a modified artifact gives the artifact's results, or the difference is named."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.earlier_artifacts import MUTATIONS, fresh, reference
from tests.fuzz.model_folders import write_channel
from tests.fuzz.oracle import check, close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import evaluate, folder_for_an_example

EXAMPLES = {"odd_field": 40, "remove_field": 22, "other_preprocessing": 20, "damaged_file": 20}


@pytest.mark.parametrize("name", MUTATIONS)
def test_changed_artifact(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with folder_for_an_example() as place:
            artifact = fresh(place, data.draw)
            situation = MUTATIONS[name](artifact)
            channels = {"model": artifact.folder.path, "test": write_channel(place / "test", artifact.folder)}
            check(situation, evaluate(place, channels), reference(artifact), close)

    try_examples(EXAMPLES.get(name, 10), example)
