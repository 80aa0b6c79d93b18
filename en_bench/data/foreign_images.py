"""Images of other makers, as they are: what they begin with, and whether training can decode them."""

from __future__ import annotations

from en_bench.data.images import UnreadableImage

EXTENSIONS = ("jpg", "jpeg", "png", "webp")  # of a sample with several, the first of these is its image
HEAD = 12  # bytes that tell the format


def fault_of_head(head: bytes) -> str:
    """Why a file cannot be an image that is read here, by its first bytes; empty if it can."""
    if not head:
        return "is empty"
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if webp or head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return ""
    return "is neither JPEG, PNG nor WebP"


def fault_of_image(payload: bytes) -> str:
    """Why training cannot decode an image, empty if it can."""
    from en_bench.data.decoding import decode  # with torch, which a scan that decodes nothing does without

    try:
        decode(payload)
    except UnreadableImage as error:
        return f"cannot be decoded: {error}"
    return ""
