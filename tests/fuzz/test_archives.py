"""Is the evaluation of an archive that of what was packed, or is the difference named?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.archives import MUTATIONS, Packed
from fuzz.model_folders import fresh, reference, write_channel
from fuzz.oracle import check, close
from fuzz.profile import examples
from fuzz.running import evaluate, folder_for_an_example


@pytest.mark.parametrize("name", MUTATIONS)
@examples(8)
@given(data=st.data())
def test_one_way_to_pack(name: str, data: st.DataObject) -> None:
    with folder_for_an_example() as place:
        folder = fresh(place, data.draw(st.sampled_from(("bert", "resnet"))), data.draw)
        packed = Packed(folder, place / "channel", data.draw)
        situation = MUTATIONS[name](packed)
        run = evaluate(place, {"model": packed.channel, "test": write_channel(place / "test", folder)})
        check(situation, run, reference(folder), close)
