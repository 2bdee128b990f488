"""How are the samples of tar shards cut out of a stream and understood?

Files that follow each other with the same path up to the first dot of their name are one sample, and what follows that
dot names a field, as WebDataset has it: `0001.jpg` and `0001.cls`. A picture without a label has the class that its
folder is called.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.json_text import parse_json
from finetune.data.streams.named_fields import LABEL_FIELDS, Decoded, Wanted, decoded_fields
from finetune.data.streams.tar_members import read_tar
from finetune.data.streams.window import Window

Sample = tuple[memoryview, ...]


class TarCodec:
    """Tar shards, however many in a stream. A sample is names and contents by turns."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def cut(self, window: Window) -> Iterator[Sample]:
        """Names and contents of the files that belong together."""
        for sample, _ in self.cut_with_ends(window):
            yield sample

    def cut_with_ends(self, window: Window) -> Iterator[tuple[Sample, int]]:
        """Samples, and the place in the stream behind the last file of each."""
        stem, end = "", 0
        sample: list[memoryview] = []
        for path, content in read_tar(window):
            name = path.rpartition("/")[2]
            if name.startswith("."):
                continue
            own = path[: len(path) - len(name)] + name.partition(".")[0]
            if sample and own != stem:
                yield tuple(sample), end
                sample = []
            stem, end = own, window.offset
            sample += [memoryview(path.encode("utf-8", "surrogateescape")), content]
        if sample:
            yield tuple(sample), end

    def decode(self, sample: Sample) -> Decoded:
        """Fields by their ending; an object in `.json` adds its own names."""
        fields: dict[str, object] = {}
        folder = ""
        for name, content in zip(sample[::2], sample[1::2], strict=True):
            path = bytes(name).decode("utf-8", "replace")
            folder = path.rpartition("/")[0].rpartition("/")[2]
            field = path.rpartition("/")[2].partition(".")[2].lower()
            fields[field] = content
            if field == "json":
                value = parse_json(bytes(content))
                fields |= value if isinstance(value, dict) else {}
        given = self._wanted.spec.label_column
        if given is None and folder not in ("", ".") and not any(name in fields for name in LABEL_FIELDS):
            fields["label"] = folder
        return decoded_fields(fields, fields, self._wanted)
