"""Pictures as anyone may send them, to plain RGB: within limits that are looked at before anything is unpacked."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

from dmr.errors import InvalidRequest

if TYPE_CHECKING:  # few engines see
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 64 << 20  # of a file
MAX_PIXELS = 50_000_000  # unpacked, 150 MB
MAX_SIDE = 4096  # pixels; larger ones are made smaller, since no model looks at more
SMALL_SIDE = 512  # pixels; what OpenAI's vision guide makes of a picture whose `detail` is "low"
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


class Picture(NamedTuple):
    width: int
    height: int
    pixels: bytes  # RGB, row by row


def read_picture(data: bytes, max_side: int = MAX_SIDE) -> Picture:
    """The picture that a person would see: turned as its camera says, on white where it is transparent.

    Of an animation the first frame. One with a longer side than `max_side` pixels is made smaller.

    Raises:
        InvalidRequest: it is damaged, of no known format, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"The image has {len(data)} bytes; {MAX_BYTES} can be read.", param="image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            return _read(data, max_side)
    except InvalidRequest:
        raise
    except Image.DecompressionBombError:
        raise InvalidRequest(f"The image is too large; {MAX_PIXELS:,} pixels can be read.", param="image") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise InvalidRequest(f"The image is of no known format; known are {known}.", param="image") from None
    except Exception as error:  # decoders raise errors of many types for damaged files
        raise InvalidRequest(f"The image cannot be read: {error}.", param="image") from error


def _read(data: bytes, max_side: int) -> Picture:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=FORMATS) as file:
        width, height = file.size
        if width * height > MAX_PIXELS:
            raise InvalidRequest(
                f"The image is too large ({width}x{height}); {MAX_PIXELS:,} pixels can be read.", param="image"
            )
        file.draft("RGB", (max_side, max_side))  # a JPEG is unpacked smaller at once
        image = _on_white(ImageOps.exif_transpose(file))
    image.thumbnail((max_side, max_side))
    return Picture(image.width, image.height, image.tobytes())


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16 bits of grey, of which a plain conversion would keep the lower 8
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode not in _TRANSPARENT and "transparency" not in image.info:
        return image.convert("RGB")
    from PIL import Image

    opaque = image.convert("RGBA")
    white = Image.new("RGBA", opaque.size, "white")
    return Image.alpha_composite(white, opaque).convert("RGB")
