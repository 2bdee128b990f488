"""The records read from a table are those it was written from, or the difference is named."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.oracle import check, is_close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import example_folder
from tests.fuzz.tables import MUTATIONS, new_case, read, reference


@pytest.mark.parametrize("name", MUTATIONS)
def test_unusual_input(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            table = new_case(root, data.draw)
            situation = MUTATIONS[name](table)
            mode = "Pipe mode" if table.piped else "File mode"
            check(situation.with_text(mode), read(table, root), reference(table), is_close)

    try_examples(20, example)
