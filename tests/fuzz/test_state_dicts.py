"""Evaluating a weights file gives the results of torchvision, or the difference is named."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.oracle import check, is_close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import evaluate, example_folder
from tests.fuzz.state_dicts import MUTATIONS, new_case, reference, write_channel

EXAMPLES = {
    "drop_tensor": 8,
    "rename_tensor": 6,
    "prefixes_of_pytorch": 8,
    "file_names_and_formats": 10,
    "unchanged": 5,
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_single_fault(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            file = new_case(root, data.draw)
            situation = MUTATIONS[name](file)
            file.write()
            channels = {"model": file.folder, "test": write_channel(root / "test")}
            check(situation, evaluate(root, channels, file.hyperparameters), reference(file), is_close)

    try_examples(EXAMPLES.get(name, 4), example)
