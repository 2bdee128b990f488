"""Evaluating an archive gives the packed model's results, or the difference is named."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.archives import MUTATIONS, Packed
from tests.fuzz.model_folders import new_case, reference, write_channel
from tests.fuzz.oracle import check, is_close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import evaluate, example_folder

EXAMPLES = {"odd_names": 50, "damaged_archive": 20}


@pytest.mark.parametrize("name", MUTATIONS)
def test_archive_variant(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            folder = new_case(root, data.draw(st.sampled_from(("bert", "resnet"))), data.draw)
            packed = Packed(folder, root / "channel", data.draw)
            situation = MUTATIONS[name](packed)
            run = evaluate(root, {"model": packed.channel, "test": write_channel(root / "test", folder)})
            check(situation, run, reference(folder), is_close)

    try_examples(EXAMPLES.get(name, 10), example)
