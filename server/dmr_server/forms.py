"""Forms that anyone may have sent (multipart/form-data, RFC 7578): bounded, and read to the end or refused."""

from __future__ import annotations

import io
from typing import NamedTuple

import falcon
from falcon.media import MultipartFormHandler
from falcon.media.multipart import MultipartParseOptions

from dmr.errors import InvalidRequest, PayloadTooLarge
from dmr_server.bodies import read_raw
from dmr_server.errors import InvalidBody, UnsupportedMediaType

MAX_PARTS = 64
MAX_TEXT_BYTES = 1 << 20  # of a field that is no file


class Form(NamedTuple):
    """The fields by name; what was sent with a file's name is a file. Of what is there twice the last one goes."""

    fields: dict[str, str]
    files: dict[str, bytes]


def read_form(req: falcon.Request, max_bytes: int) -> Form:
    """The form in the body.

    Raises:
        UnsupportedMediaType: it is none; InvalidBody: it is damaged; InvalidRequest: a field is no text.
        PayloadTooLarge, RequestTimeout
    """
    content_type = req.content_type or ""
    if not content_type.lower().startswith("multipart/form-data"):
        raise UnsupportedMediaType("A form is expected here, of type multipart/form-data.")
    if (req.get_header("Content-Encoding") or "identity").lower() != "identity":
        raise UnsupportedMediaType("A form is not read compressed.")
    data = read_raw(req, max_bytes)
    try:
        return _parsed(data, content_type, max_bytes)
    except falcon.HTTPError as error:
        raise InvalidBody(f"The form cannot be read: {error.description or error.title}.") from None
    except (ValueError, IndexError) as error:  # a header or a boundary that is no ASCII
        raise InvalidBody("The form cannot be read: its headers are damaged.") from error


def _parsed(data: bytes, content_type: str, max_bytes: int) -> Form:
    options = MultipartParseOptions()
    options.max_body_part_count = MAX_PARTS
    options.max_body_part_buffer_size = max_bytes
    form = Form({}, {})
    for part in MultipartFormHandler(options).deserialize(io.BytesIO(data), content_type, len(data)):
        name = part.name or ""
        if part.filename is not None:
            form.files[name] = part.get_data()
        else:
            form.fields[name] = _text(part.get_data(), name)
    return form


def _text(data: bytes, name: str) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise PayloadTooLarge(f"'{name[:40]}' is larger than {MAX_TEXT_BYTES} bytes.", param=name[:40])
    try:
        return data.decode()
    except UnicodeDecodeError:
        name = name[:40]
        raise InvalidRequest(f"Invalid value for '{name}': it is not valid UTF-8.", param=name) from None
