"""Files that go along with a question."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr.cli import attachments
from dmr.cli.attachments import Content, begins_with_file, complete_mention, read_question
from dmr.errors import InvalidRequest

PNG = b"\x89PNG\r\n\x1a\nxyz"


def outline(content: Content) -> list[str]:
    """Texts as they are, and what else there is by its kind."""
    assert isinstance(content, list)
    return [part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in content]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "text", ["plain", "mail me@x.test", "@", '@""', "@nosuch", "@~nosuchuser/x", "@.", "@" + "x" * 5000, "a\n@\x00b"]
)
def test_what_names_no_file_stays_text(text: str) -> None:
    assert read_question(text) == text


def test_a_file_is_put_in_once_and_punctuation_is_not_its_name(here: Path) -> None:
    (here / "a.txt").write_text("A\n")
    assert read_question("See @a.txt, really (@a.txt)? @a.txt.") == (
        "See @a.txt, really (@a.txt)? @a.txt.\n\na.txt:\n```\nA\n```"
    )


def test_the_fence_is_longer_than_any_in_the_file(here: Path) -> None:
    (here / "a.md").write_text("```\ncode\n````\n")
    assert read_question("@a.md").endswith("a.md:\n`````\n```\ncode\n````\n`````")


def test_piped_text_comes_last_and_mentions_nothing(here: Path) -> None:
    (here / "secret").write_text("hidden")
    assert read_question("Summarize:", piped="send me @secret") == "Summarize:\n\nsend me @secret"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (PNG, "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"GIF89a", "gif"),
        (b"BM0000", "bmp"),
        (b"RIFF0000WEBPVP8 ", "webp"),
    ],
)
def test_images_are_known_by_their_first_bytes(here: Path, start: bytes, kind: str) -> None:
    (here / "picture.txt").write_bytes(start)
    _, image = read_question("What is @picture.txt")
    assert isinstance(image, dict)
    assert image["image_url"]["url"].startswith(f"data:image/{kind};base64,")


def test_what_is_seen_and_heard_stands_where_it_is_named(here: Path) -> None:
    for name, data in (("a.png", PNG), ("b c.jpg", b"\xff\xd8\xff\xe0"), ("d.wav", b"RIFF0000WAVEfmt "), ("e", b"E")):
        (here / name).write_bytes(data)
    told = outline(
        read_question('Is @a.png, or @"b c.jpg" like @d.wav? See @e; not @a.png!', [here / "a.png"], "piped")
    )
    assert told == [
        "<image_url>",
        "Is ",
        "<image_url>",
        ", or ",
        "<image_url>",
        " like ",
        "<input_audio>",
        "? See @e; not @a.png!\n\ne:\n```\nE\n```\n\npiped",
    ]


@pytest.mark.parametrize(
    "typed",
    [
        "{}/x.png",
        "'{}/x.png'",
        '"{}/x.png"',
        "'{}/it'\\''s x.png'",
        "{}/it\\'s\\ x.png",
        "file://{}/x.png",
        "file://{}/it%27s%20x.png",
    ],
)
def test_an_image_that_is_dragged_into_the_chat_goes_along(here: Path, typed: str) -> None:
    for name in ("x.png", "it's x.png"):
        (here / name).write_bytes(PNG)
    path = typed.format(here)
    assert begins_with_file(f"{path} what is this?")
    assert not begins_with_file(f"what is {path}")
    assert outline(read_question(f"what is {path} and why?", may_be_dragged=True)) == [
        "what is ",
        "<image_url>",
        " and why?",
    ]
    assert read_question(path) == path  # in a script a path is a path


@pytest.mark.parametrize("text", ["{}/notes.txt", "/bye", "/set x", "{}/none.png", "'{}/x.png", "{}", "a{}/x.png", "/"])
def test_other_paths_are_only_spoken_of(here: Path, text: str) -> None:
    (here / "notes.txt").write_text("secret")
    (here / "x.png").write_bytes(PNG)
    text = text.format(here)
    assert read_question(text, may_be_dragged=True) == text
    assert not begins_with_file(text)


@pytest.mark.parametrize(
    ("start", "form"), [(b"RIFF0000WAVEfmt ", "wav"), (b"ID3\x04", "mp3"), (b"\xff\xfb\x90", "mp3"), (b"fLaC", "flac")]
)
def test_sounds_are_known_by_their_first_bytes(here: Path, start: bytes, form: str) -> None:
    (here / "voice").write_bytes(start)
    (sound,) = read_question("@voice")
    assert isinstance(sound, dict)
    assert sound["input_audio"]["format"] == form


def test_an_image_alone_has_no_text(here: Path) -> None:
    (here / "x.png").write_bytes(PNG)
    assert [part["type"] for part in read_question("", [here / "x.png"]) if isinstance(part, dict)] == ["image_url"]


@pytest.mark.parametrize(
    ("data", "message"), [(b"\xff\xfe\x00", "neither an image, nor a sound"), (b"x" * 11, "is larger than")]
)
def test_files_that_cannot_go_along(here: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str) -> None:
    monkeypatch.setattr(attachments, "MAX_TEXT_BYTES", 10)
    (here / "x.bin").write_bytes(data)
    with pytest.raises(InvalidRequest, match=message):
        read_question("@x.bin")


def test_an_image_is_not_larger_than_servers_take(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attachments.MAX_MEDIA_BYTES == 64 << 20
    monkeypatch.setattr(attachments, "MAX_MEDIA_BYTES", 11)
    (here / "x.png").write_bytes(PNG + b"more")
    with pytest.raises(InvalidRequest, match="is larger than"):
        read_question("x", [here / "x.png"])


def test_an_image_must_be_one(here: Path) -> None:
    (here / "x.png").write_bytes(b"text")
    with pytest.raises(InvalidRequest, match="no image that is known"):
        read_question("x", [here / "x.png"])


def test_mentions_are_completed(here: Path) -> None:
    for name in ("notes.txt", "news", ".hidden", "two words"):
        (here / name).touch()
    (here / "nest").mkdir()
    (here / "nest" / "egg").touch()
    assert complete_mention("@n") == ["@nest/", "@news ", "@notes.txt "]
    assert complete_mention("@nest/") == ["@nest/egg "]
    assert complete_mention("@") == ["@nest/", "@news ", "@notes.txt "]
    assert complete_mention("@.h") == ["@.hidden "]
    assert complete_mention(f"@{here}/ne") == [f"@{here}/nest/", f"@{here}/news "]
    assert complete_mention("n") == complete_mention("@nowhere/x") == []
