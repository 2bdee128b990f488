"""Reads Arrow files, such as those that `save_to_disk` of Hugging Face datasets writes, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow

_FILE_MAGIC = b"ARROW1"
DATASET_FILES = frozenset({"dataset_info.json", "state.json", "dataset_dict.json"})
"""Names of the files that `save_to_disk` writes beside the Arrow files; they contain no records."""


class ArrowFile:
    """An Arrow stream or file, with the part of the interface of `pyarrow.parquet.ParquetFile` that tables need.

    The batches can be read once.

    Attributes:
        schema_arrow: names and types of the columns.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its schema.

        Raises:
            pyarrow.ArrowException: the file is damaged.
            OSError: the file cannot be read.
        """
        import pyarrow
        import pyarrow.ipc

        self._source = pyarrow.memory_map(str(path))
        try:
            self._batches = self._open()
        except BaseException:
            self._source.close()
            raise

    def _open(self) -> Iterator[pyarrow.RecordBatch]:
        import pyarrow.ipc

        is_file = self._source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        self._source.seek(0)
        if is_file:
            file = pyarrow.ipc.open_file(self._source)
            self.schema_arrow = file.schema
            return (file.get_batch(index) for index in range(file.num_record_batches))
        stream = pyarrow.ipc.open_stream(self._source)
        self.schema_arrow = stream.schema
        return iter(stream)

    def __enter__(self) -> ArrowFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._source.close()

    def iter_batches(self, batch_size: int, columns: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
        """Yield batches of at most `batch_size` rows with these columns."""
        for batch in self._batches:
            selected = batch.select(list(columns))
            for start in range(0, selected.num_rows, batch_size):
                yield selected.slice(start, batch_size)
