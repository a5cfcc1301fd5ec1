"""Images in a conversation: their bytes, their size, and how many tokens a model sees of them."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RendererError

PLACEHOLDER = -1
"""The id that stands in `token_ids` for each token of an image."""


@dataclass(frozen=True, slots=True)
class Image:
    """format: "png" or "jpeg". width, height: pixels."""

    data: bytes
    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """An image between tokens; the model sees it as `expected_tokens` tokens."""

    image: Image
    expected_tokens: int


def image_of(part: Mapping[str, Any], where: str) -> Image:
    """The image of a part: `image` or `image_url` is a data URI, a file, or the bytes themselves.

    Raises `RendererError` for what can't be read; nothing is fetched from the network.
    """
    source = part.get("image", part.get("image_url"))
    if isinstance(source, Mapping):
        source = source.get("url")
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (str, Path)) and not str(source).startswith(("http://", "https://")):
        data = _read(str(source), where)
    else:
        raise RendererError(
            f"{where} has an image that is {str(source)[:60]!r}: give the bytes, a file, or a data URI "
            "(data:image/png;base64,...)"
        )
    size = _png_size(data) or _jpeg_size(data)
    if size is None or not (size[1] and size[2]):
        raise RendererError(f"{where} has an image that is neither PNG nor JPEG, or empty; convert it first")
    return Image(data, *size)


def qwen_image_tokens(image: Image) -> int:
    """How many tokens a Qwen3-VL model sees: one for 32 x 32 pixels after the resize of its processor,
    which keeps the ratio of the sides, rounds them to multiples of 32, and the area to 2^16 to 2^24 pixels.

    Source: `smart_resize` of Qwen2-VL's image processor, with Qwen3-VL's preprocessor_config.json (patches of
    16 pixels, merged 2 x 2). Raises `RendererError` for an image 200 times as long as wide, as it does.
    """
    factor, least, most = 32, 1 << 16, 1 << 24
    height, width = image.height, image.width
    if max(height, width) > 200 * min(height, width):
        raise RendererError(f"an image of {width} x {height} pixels: the sides may differ 200 times at most")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < least:
        grow = math.sqrt(least / (height * width))
        rows, columns = (
            math.ceil(height * grow / factor) * factor,
            math.ceil(width * grow / factor) * factor,
        )
    return (rows // factor) * (columns // factor)


def _read(source: str, where: str) -> bytes:
    try:
        if source.startswith("data:"):
            return base64.b64decode(source.partition(",")[2], validate=True)
        return Path(source).read_bytes()
    except (OSError, ValueError, binascii.Error) as e:
        raise RendererError(f"{where} has the image {source[:60]!r}, which can't be read: {e}") from None


def _png_size(data: bytes) -> tuple[str, int, int] | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        return None
    return ("png", *struct.unpack(">II", data[16:24]))


def _jpeg_size(data: bytes) -> tuple[str, int, int] | None:
    """From the frame header; the segments before it are stepped over."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return "jpeg", width, height
        at += 2 + length
    return None
