"""From the bytes of a picture to a part of it at another size.

Two ways lead there. ``pil`` is torchvision's classic pipeline, pixel for pixel: PIL decodes, cuts out and resizes.
``fast`` decodes with libjpeg-turbo (through simplejpeg) and resizes with torch's antialiased kernel for uint8, which
agrees with PIL's but for rounding; ``scripts/benchmark_images.py`` measures what that gives.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Decoder = Literal['fast', 'pil']

Box = tuple[int, int, int, int]
"""A part of a picture in pixels: top, left, height and width."""

Size = tuple[int, int]
"""Height and width in pixels."""

View = Callable[[int, int], tuple[Box, Size]]
"""From a picture's height and width to the part of it that is wanted, and the size that part is resized to."""

_SHRINK = (8, 4, 2)


def decode(data: bytes | Image.Image, view: View, decoder: str = 'fast', name: str = 'an image') -> Tensor:
    """A part of a picture, resized bilinearly and antialiased.

    ``fast`` falls back on PIL for what is no JPEG of gray or colour (PNG, CMYK), and for a JPEG with faults that PIL
    overlooks. A part of at least twice the wanted size is decoded at a half, a quarter or an eighth, which skips most
    of the inverse cosine transform; the part's edges are then rounded to whole pixels of the smaller picture.

    Args:
        data: The file's bytes, or an open picture.
        view: Which part, and how large.
        decoder: ``'fast'`` or ``'pil'``.
        name: What the picture is called, for messages.

    Returns:
        ``(3, height, width)`` uint8, RGB.

    Raises:
        ValueError: If the picture cannot be read, or only its beginning is there.

    Example:
        >>> file = BytesIO()
        >>> Image.new('RGB', (40, 30), 'red').save(file, 'PNG')
        >>> decode(file.getvalue(), lambda height, width: ((0, 0, height, width), (3, 4)))[:, 0, 0].tolist()
        [255, 0, 0]
    """
    if decoder == 'fast' and isinstance(data, bytes):
        found = _fast(data, view)
        if found is not None:
            return found
    try:
        return _by_pil(data, view)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        told = ' '.join(str(error).replace(repr(data), 'the data').split())
        size = f' ({len(data):,} bytes)' if isinstance(data, bytes) else ''
        raise ValueError(
            f"{name}{size} cannot be decoded: {type(error).__name__}: {told[:200]}. Copy it anew from the source, or "
            'remove it.',
        ) from error


def _by_pil(data: bytes | Image.Image, view: View) -> Tensor:
    picture = Image.open(BytesIO(data)) if isinstance(data, bytes) else data
    picture = picture.convert('RGB')
    (top, left, height, width), size = view(picture.height, picture.width)
    if (top, left, height, width) != (0, 0, picture.height, picture.width):
        picture = picture.crop((left, top, left + width, top + height))
    resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def _fast(data: bytes, view: View) -> Tensor | None:
    import simplejpeg  # type: ignore[import-untyped, unused-ignore]

    try:
        full_height, full_width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ('YCbCr', 'RGB', 'Gray'):
            return None
        box, size = view(full_height, full_width)
        shrink = next((n for n in _SHRINK if box[2] >= n * size[0] and box[3] >= n * size[1]), 1)
        limits: dict[str, Any] = {}
        if shrink > 1:
            limits = {'min_height': -(-full_height // shrink), 'min_width': -(-full_width // shrink), 'min_factor': 2}
        pixels = simplejpeg.decode_jpeg(data, **limits)
    except ValueError:
        return None  # no JPEG, or one that libjpeg-turbo warns about
    return _resized(pixels, _shrunk(box, shrink, pixels.shape), size)


def _shrunk(box: Box, shrink: int, shape: tuple[int, ...]) -> Box:
    if shrink == 1:
        return box
    top, left, height, width = (round(edge / shrink) for edge in box)
    top, left = min(top, shape[0] - 1), min(left, shape[1] - 1)
    return top, left, min(height, shape[0] - top), min(width, shape[1] - left)


def _resized(pixels: NDArray[np.uint8], box: Box, size: Size) -> Tensor:
    top, left, height, width = box
    part = torch.from_numpy(pixels).permute(2, 0, 1)[None, :, top:top + height, left:left + width]
    if (height, width) != size:
        part = torch.nn.functional.interpolate(part, size, mode='bilinear', antialias=True)
    return part[0].contiguous()
