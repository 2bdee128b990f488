"""How do torch's libraries come into memory while Python still reads other modules?

The loader needs half a second of a core to bind their symbols, in which `import torch` waits with Python's lock held,
and so would `ctypes.CDLL`. A foreign call does without the lock: here a thread calls `dlopen` itself, and whoever
imports torch later finds the libraries there, or waits for the rest.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

COMPILED = (
    *("_asyncio", "_bisect", "_blake2", "_bz2", "_contextvars", "_csv", "_datetime", "_decimal", "_hashlib", "_heapq"),
    *("_json", "_lzma", "_opcode", "_pickle", "_posixsubprocess", "_random", "_sha512", "_socket", "_ssl", "_struct"),
    *("_typing", "_uuid", "_zoneinfo", "array", "binascii", "fcntl", "grp", "math", "resource", "select", "termios"),
    *("zlib", "gethostname", "psutil", "pydantic_core", "_multiprocessing", "_posixshmem", "_queue", "_statistics"),
    *("mmap", "unicodedata", "PIL._imaging", "PIL._imagingft"),
)
"""Compiled modules that a job imports before torch: the loader has a lock, too, for which each would wait."""
MEANWHILE = (
    *("html", "http.client", "multiprocessing.connection", "unittest.mock", "urllib.request"),
    *("PIL.Image", "PIL.ImageDraw", "PIL.ImageFont", "torchgen.model", "tqdm"),
    *("finetune.data.augmented_manifest", "finetune.data.image_list", "finetune.data.split", "finetune.models.weights"),
    *("finetune.data.streams.image_records", "finetune.data.streams.named_fields", "finetune.strategies.presets"),
    *("finetune.observe.plan_text", "finetune.observe.report.page", "finetune.observe.rules.symptoms"),
)
"""Modules that a job imports with torch, after it or from within it, and that need neither torch nor the loader."""
# In torch's own order; the path of each is the one by which torch will ask for it.
_LIBRARIES = (("libtorch_global_deps.so", os.RTLD_NOW | os.RTLD_GLOBAL), ("libtorch_cuda.so", os.RTLD_NOW))


def preload_torch() -> Thread | None:
    """Begin to load what `import torch` will load; how threads wait has to be said before.

    Returns:
        the thread that does so; `None` where torch is there already, where `LD_LIBRARY_PATH` may name other libraries
        of CUDA, before which torch loads its own one by one, or where nobody knows how.
    """
    found = find_spec("torch")
    load = getattr(ctypes.CDLL(None), "dlopen", None)
    if "torch" in sys.modules or "LD_LIBRARY_PATH" in os.environ:
        return None
    if found is None or found.origin is None or load is None:
        return None
    for name in COMPILED:
        with suppress(ImportError):
            import_module(name)
    _ask_for_randomness()
    load.restype, load.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    folder = Path(found.origin).parent / "lib"
    thread = Thread(target=_load, args=(load, [(folder / name, mode) for name, mode in _LIBRARIES]), daemon=True)
    thread.start()
    return thread


def import_meanwhile() -> None:
    """Import what needs no torch, and would be imported after it; for two cores, time that passes anyway."""
    for name in MEANWHILE:
        with suppress(ImportError):
            import_module(name)


def _ask_for_randomness() -> None:
    """Have pydantic build something: for its first hash table, Rust asks the loader where `getrandom` is."""
    from pydantic_core import SchemaSerializer, core_schema

    SchemaSerializer(core_schema.any_schema())


def _load(load: Callable[[bytes, int], int | None], libraries: Sequence[tuple[Path, int]]) -> None:
    for path, mode in libraries:
        # Whatever is wrong with them, torch will say.
        if not path.exists() or not load(os.fsencode(path), mode):
            return
