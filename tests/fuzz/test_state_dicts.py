"""Is the evaluation of a file of weights that of torchvision, or is the difference named?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.oracle import check, close
from fuzz.profile import examples
from fuzz.running import evaluate, folder_for_an_example
from fuzz.state_dicts import MUTATIONS, fresh, reference, write_channel


@pytest.mark.parametrize("name", MUTATIONS)
@examples(3)
@given(data=st.data())
def test_one_fault(name: str, data: st.DataObject) -> None:
    with folder_for_an_example() as place:
        file = fresh(place, data.draw)
        situation = MUTATIONS[name](file)
        file.write()
        channels = {"model": file.folder, "test": write_channel(place / "test")}
        check(situation, evaluate(place, channels, file.hyperparameters), reference(file), close)
