"""Pictures of one colour, as the tiny projectors know them."""

from __future__ import annotations

import base64
import io

from PIL import Image
from tiny_models import SCRIPT_COLOURS

RGB = dict(
    zip(
        SCRIPT_COLOURS,
        [(red, green, blue) for red in (0, 255) for green in (0, 255) for blue in (0, 255)],
        strict=True,
    )
)


def picture(colour: str, form: str = "PNG", side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), RGB[colour]).save(file, form)
    return file.getvalue()


def coded(colour: str, form: str = "PNG") -> str:
    return base64.b64encode(picture(colour, form)).decode()


def data_uri(colour: str, form: str = "PNG") -> str:
    return f"data:image/{form.lower()};base64,{coded(colour, form)}"
