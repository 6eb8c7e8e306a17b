"""Forms: read whole, or refused with a reason."""

from __future__ import annotations

from typing import Any

import falcon
import falcon.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.errors import DmrError, InvalidRequest, PayloadTooLarge
from dmr_server.errors import InvalidBody, UnsupportedMediaType
from dmr_server.forms import Form, read_form

TYPE = "multipart/form-data; boundary=x"


def read(body: bytes, content_type: str = TYPE, max_bytes: int = 10_000, **headers: str) -> Form:
    all_headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}
    environ = falcon.testing.create_environ(method="POST", body=body, headers=all_headers)
    return read_form(falcon.Request(environ), max_bytes)


def part(name: str, data: bytes, *, file: str | None = None, more: bytes = b"") -> bytes:
    filename = f'; filename="{file}"' if file is not None else ""
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n'
    return head.encode() + more + b"\r\n" + data + b"\r\n"


END = b"--x--\r\n"


def test_fields_and_files() -> None:
    body = part("model", b"a") + part("file", b"\0\r\n--y\xff", file="a.wav", more=b"Content-Type: audio/wav\r\n")
    body += part("prompt", "größer\r\n".encode()) + part("model", b"b") + END
    assert read(body) == Form({"model": "b", "prompt": "größer\r\n"}, {"file": b"\0\r\n--y\xff"})


def test_an_empty_form() -> None:
    assert read(END) == Form({}, {})


def test_without_a_line_end_at_its_end() -> None:
    assert read(part("a", b"1") + b"--x--") == Form({"a": "1"}, {})


CASES: list[tuple[bytes, dict[str, Any], type[DmrError]]] = [
    (b"", {}, InvalidBody),
    (b"nonsense", {}, InvalidBody),
    (part("a", b"1"), {}, InvalidBody),
    (part("a", b"1")[:-10], {}, InvalidBody),
    (b"--x\r\nContent-Disposition: form-data", {}, InvalidBody),
    (part("a", b"1", more=b"Content-Transfer-Encoding: base64\r\n") + END, {}, InvalidBody),
    (part("a", b"\xff") + END, {}, InvalidRequest),
    (b"--x\r\nContent-Disposition: form-data; name=\xff\r\n\r\n1\r\n" + END, {}, InvalidBody),
    (part("a", b"1") * 65 + END, {}, InvalidBody),
    (part("a", b"1" * 20_000) + END, {}, PayloadTooLarge),
    (END, {"content_type": "multipart/form-data"}, InvalidBody),
    (END, {"content_type": "multipart/form-data; boundary="}, InvalidBody),
    (END, {"content_type": "multipart/form-data; boundary=" + "x" * 71}, InvalidBody),
    (END, {"content_type": "multipart/form-data; boundary=\xff"}, InvalidBody),
    (END, {"content_type": "application/json"}, UnsupportedMediaType),
    (END, {"content_type": "multipart/mixed; boundary=x"}, UnsupportedMediaType),
    (END, {"Content-Encoding": "gzip"}, UnsupportedMediaType),
]


@pytest.mark.parametrize(("body", "how", "kind"), CASES)
def test_what_is_wrong_is_told(body: bytes, how: dict[str, Any], kind: type[DmrError]) -> None:
    with pytest.raises(kind):
        read(body, **how)


def test_a_text_is_bounded() -> None:
    with pytest.raises(PayloadTooLarge, match="'a' is larger"):
        read(part("a", b"1" * (1 << 21)) + END, max_bytes=1 << 22)


WHOLE = part("model", b"a") + part("file", b"sound", file="a.wav") + END
PIECES = (
    b"--x",
    b"--x--",
    b"\r\n",
    b'Content-Disposition: form-data; name="a"',
    b"; filename*=utf-9''%ff",
    b": ",
    b"\xff",
)


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=20).map(b"".join))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try_to_read(body)


@given(st.integers(0, len(WHOLE)), st.binary(max_size=5), st.integers(0, 5))
def test_a_form_with_a_fault(place: int, patch: bytes, num_cut: int) -> None:
    try_to_read(WHOLE[:place] + patch + WHOLE[place + num_cut :])


@given(st.text(max_size=30))
def test_any_type_is_read_or_refused(parameters: str) -> None:
    try_to_read(WHOLE, "multipart/form-data; " + parameters.encode("latin-1", "replace").decode("latin-1"))


def try_to_read(body: bytes, content_type: str = TYPE) -> None:
    """Anything but a DmrError is a defect."""
    try:
        form = read(body, content_type)
    except DmrError:
        return
    assert all(isinstance(value, str) for value in form.fields.values())
