"""Evaluating a modified artifact gives the artifact's results, or the difference is named."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.earlier_artifacts import MUTATIONS, new_case, reference
from tests.fuzz.model_folders import write_channel
from tests.fuzz.oracle import check, is_close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import evaluate, example_folder

EXAMPLES = {"odd_field": 40, "remove_field": 22, "other_preprocessing": 20, "damaged_file": 20}


@pytest.mark.parametrize("name", MUTATIONS)
def test_changed_artifact(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            artifact = new_case(root, data.draw)
            situation = MUTATIONS[name](artifact)
            channels = {"model": artifact.folder.path, "test": write_channel(root / "test", artifact.folder)}
            check(situation, evaluate(root, channels), reference(artifact), is_close)

    try_examples(EXAMPLES.get(name, 10), example)
