"""The records read from a table are those it was written from, or the difference is named."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.fuzz.oracle import check, close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import folder_for_an_example
from tests.fuzz.tables import MUTATIONS, fresh, read, reference


@pytest.mark.parametrize("name", MUTATIONS)
def test_unusual_input(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with folder_for_an_example() as place:
            table = fresh(place, data.draw)
            situation = MUTATIONS[name](table)
            mode = "Pipe mode" if table.piped else "File mode"
            check(situation.also(mode), read(table, place), reference(table), close)

    try_examples(20, example)
