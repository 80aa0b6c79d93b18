"""Which variant of a data set a split holds: of two that go by one name, a table has to say which."""

from __future__ import annotations

from typing import Any

from en_bench.data.manifest import Manifest

_OF_SOURCE = ("variant", "resolution", "form", "sources", "limit")


def variant(manifest: Manifest) -> dict[str, Any]:
    """What the manifest says of it, without what it leaves open.

    `variant`, `resolution`, `form`, `sources` and `limit` of the raw images, `short_side` in pixels (None: sizes as
    they were), and how images were `encoded` again, where they were.
    """
    found = {key: manifest.source[key] for key in _OF_SOURCE if manifest.source.get(key) is not None}
    image = manifest.image
    if "short_side" in image:
        found["short_side"] = image["short_side"]
    if image.get("reencoded") and image.get("encoding"):
        quality = f" of quality {image['quality']}" if image["encoding"] == "jpeg" and image.get("quality") else ""
        found["encoded"] = f"{image['encoding']}{quality}"
    return found
