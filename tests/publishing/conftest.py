"""The image that is published is the one that all tests share."""

from __future__ import annotations

from tests.image.conftest import image as image
