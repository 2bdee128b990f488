"""Are the images and classes of a channel those that were written, or is the difference named?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.image_folders import MUTATIONS, fresh, read, reference
from fuzz.oracle import check, close
from fuzz.profile import examples
from fuzz.running import folder_for_an_example


@pytest.mark.parametrize("name", MUTATIONS)
@examples(10)
@given(data=st.data())
def test_one_oddity(name: str, data: st.DataObject) -> None:
    with folder_for_an_example() as place:
        images = fresh(place, data.draw)
        situation = MUTATIONS[name](images)
        mode = "Pipe mode" if images.piped else "File mode"
        check(situation.also(mode), read(images, place), reference(images), close)
