"""Makes the image under test available to the publishing tests."""

from __future__ import annotations

from tests.image.conftest import image as image
