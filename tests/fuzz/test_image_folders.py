"""The images and classes read from a channel are those written, or the difference is named."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.image_folders import MUTATIONS, fresh, read, reference
from tests.fuzz.oracle import check, close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import folder_for_an_example

EXAMPLES = {"formats_and_endings": 60, "droppings": 40, "other_files_in_a_class": 20, "tar_of_class_folders": 20}


@pytest.mark.parametrize("name", MUTATIONS)
def test_unusual_input(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with folder_for_an_example() as place:
            images = fresh(place, data.draw)
            situation = MUTATIONS[name](images)
            mode = "Pipe mode" if images.piped else "File mode"
            check(situation.also(mode), read(images, place), reference(images), close)

    try_examples(EXAMPLES.get(name, 14), example)
