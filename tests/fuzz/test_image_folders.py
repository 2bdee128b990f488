"""The images and classes read from a channel are those written, or the difference is named."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.image_folders import MUTATIONS, new_case, read, reference
from tests.fuzz.oracle import check, is_close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import example_folder

EXAMPLES = {"formats_and_endings": 60, "system_files": 40, "other_files_in_a_class": 20, "tar_of_class_folders": 20}


@pytest.mark.parametrize("name", MUTATIONS)
def test_unusual_input(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            images = new_case(root, data.draw)
            situation = MUTATIONS[name](images)
            mode = "Pipe mode" if images.piped else "File mode"
            check(situation.with_text(mode), read(images, root), reference(images), is_close)

    try_examples(EXAMPLES.get(name, 14), example)
