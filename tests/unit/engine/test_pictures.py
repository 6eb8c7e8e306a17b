"""Pictures of any kind, damaged and hostile ones too: pixels or a clear refusal, and nothing else."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dmr.engine import pictures
from dmr.engine.pictures import SMALL_SIDE, Picture, read_picture
from dmr.errors import InvalidRequest

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def pixel(picture: Picture, x: int, y: int) -> tuple[int, ...]:
    start = 3 * (y * picture.width + x)
    return tuple(picture.pixels[start : start + 3])


def is_near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 24 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 500), (512, 256)), ((500, 1024), (250, 512)), ((512, 300), (512, 300)), ((9, 9), (9, 9))],
)
def test_a_small_look_is_enough(size: tuple[int, int], expected: tuple[int, int]) -> None:
    for form in ("PNG", "JPEG"):
        assert read_picture(file_of(Image.new("RGB", size), form), SMALL_SIDE)[:2] == expected


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_known_format(form: str) -> None:
    picture = read_picture(file_of(Image.new("RGB", (40, 30), RED), form))
    assert picture[:2] == (40, 30)
    assert len(picture.pixels) == 3 * 40 * 30
    assert is_near(pixel(picture, 20, 15), RED)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    form = "JPEG" if mode == "CMYK" else "PNG"
    picture = read_picture(file_of(Image.new("RGB", (8, 8), WHITE).convert(mode), form))
    assert is_near(pixel(picture, 4, 4), WHITE)


def test_sixteen_bits_of_grey() -> None:
    picture = read_picture(file_of(Image.new("I;16", (8, 8), 1 << 15)))
    assert is_near(pixel(picture, 4, 4), (128, 128, 128))


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.putpixel((1, 0), (*BLUE, 255))
    picture = read_picture(file_of(image))
    assert (pixel(picture, 0, 0), pixel(picture, 1, 0)) == (WHITE, BLUE)


def test_it_is_turned_as_the_camera_says() -> None:
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    picture = read_picture(file_of(image, "JPEG", exif=exif))
    assert picture[:2] == (20, 40)
    assert is_near(pixel(picture, 10, 2), BLUE)
    assert is_near(pixel(picture, 10, 37), RED)


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for form in ("GIF", "WEBP"):
        picture = read_picture(file_of(frames[0], form, save_all=True, append_images=frames[1:]))
        assert is_near(pixel(picture, 4, 4), RED)


@pytest.mark.parametrize(("size", "expected"), [((1, 1), (1, 1)), ((20_000, 20), (4096, 4)), ((3, 9000), (1, 4096))])
def test_odd_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert read_picture(file_of(Image.new("RGB", size, RED)))[:2] == expected


def claimed_png(width: int, height: int) -> bytes:
    """A PNG that says it is as large as this, and has no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 100_000])
def test_what_says_it_is_huge_is_refused_before_it_is_unpacked(side: int) -> None:
    with pytest.raises(InvalidRequest, match=r"too large.*; 50,000,000 pixels"):
        read_picture(claimed_png(side, side))


def test_a_file_that_is_too_large_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 100)
    with pytest.raises(InvalidRequest, match="101 bytes"):
        read_picture(b"x" * 101)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", claimed_png(9, 9)],
)
def test_what_is_no_picture_is_told_so(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="The image") as caught:
        read_picture(data)
    assert caught.value.param == "image"


WHOLE = [
    file_of(Image.effect_noise((24, 24), 60).convert("RGB"), form) for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP")
]


@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6), st.data())
def test_damaged_ones_are_read_or_refused(whole: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    try:
        picture = read_picture(bytes(damaged))
    except InvalidRequest:
        return
    assert len(picture.pixels) == 3 * picture.width * picture.height
