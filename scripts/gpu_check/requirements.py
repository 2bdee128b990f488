"""Lists missing packages; imports nothing outside the standard library, so that it runs in any environment."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# Import name: distribution.
REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "accelerate": "accelerate",
    "numpy": "numpy",
    "PIL": "Pillow",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "google_crc32c": "google-crc32c",
}
"""Imported by every training job or, for `accelerate`, by transformers' Trainer."""
OPTIONAL = {"pytest": "pytest", "hypothesis": "hypothesis", "pytest_timeout": "pytest-timeout", "timm": "timm"}
"""Parts that need one of these report that it is missing."""


def missing(packages: dict[str, str]) -> list[str]:
    """Names of the distributions that cannot be imported."""
    return [distribution for name, distribution in packages.items() if find_spec(name) is None]


def problems() -> list[str]:
    """Reasons why no part can run."""
    reasons = []
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        reasons.append(f"Python {sys.version_info[0]}.{sys.version_info[1]} is not supported: use 3.11 to 3.13")
    if absent := missing(REQUIRED):
        reasons.append(f"packages are missing: install {' '.join(absent)}")
    return reasons


def versions() -> str:
    """Versions of all packages."""
    return ", ".join(f"{name} {_version(name)}" for name in (REQUIRED | OPTIONAL).values())


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
