"""Content blocks that become text and pictures: what a user, a tool or a system prompt says."""

from __future__ import annotations

from typing import Any, Union

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Part, TextPart
from dmr_server.fields import checked
from dmr_server.media import read_base64, read_source


class TextBlock(msgspec.Struct, frozen=True):
    text: str


class Citations(msgspec.Struct, frozen=True):
    enabled: Union[bool, None] = None


class Source(msgspec.Struct, frozen=True):
    type: str
    data: Union[str, None] = None
    content: Union[str, list[Any], None] = None


class ImageSource(msgspec.Struct, frozen=True):
    type: str
    media_type: Union[str, None] = None
    data: Union[str, None] = None
    url: Union[str, None] = None


class ImageBlock(msgspec.Struct, frozen=True):
    source: ImageSource


class DocumentBlock(msgspec.Struct, frozen=True):
    source: Source
    title: Union[str, None] = None
    context: Union[str, None] = None
    citations: Union[Citations, None] = None


class SearchResultBlock(msgspec.Struct, frozen=True):
    source: str
    title: str
    content: list[Any]
    citations: Union[Citations, None] = None


_ELSEWHERE = "the server does not fetch documents; send the text itself as a source of type 'text'"
_UNREADABLE = {
    "base64": "PDF documents cannot be read here; send their text as a source of type 'text'",
    "url": _ELSEWHERE,
    "file": _ELSEWHERE,
}


def kind_of(block: Any, path: str) -> str:
    """The `type` of a block; raises InvalidRequest."""
    kind = checked(block, dict[str, Any], path).get("type")
    if kind is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.type'.", param=f"{path}.type")
    return checked(kind, str, f"{path}.type")


def read_parts(content: str | list[Any], path: str) -> tuple[Part, ...]:
    """A string or a list of blocks: both give the same parts for the same text."""
    if isinstance(content, str):
        return to_parts(content)
    return tuple(part for index, block in enumerate(content) for part in read_part(block, f"{path}[{index}]"))


def read_text_blocks(content: str | list[Any], path: str) -> tuple[TextPart, ...]:
    """Like `read_parts`, where only text is allowed."""
    if not isinstance(content, str):
        for index, block in enumerate(content):
            kind = kind_of(block, f"{path}[{index}]")
            if kind != "text":
                raise unexpected(kind, f"{path}[{index}]")
    return tuple(part for part in read_parts(content, path) if isinstance(part, TextPart))


def to_parts(text: str) -> tuple[TextPart, ...]:
    """No part for no text."""
    return (TextPart(text),) if text else ()


def read_part(block: Any, path: str) -> tuple[Part, ...]:
    """A block that can stand wherever content is allowed; raises InvalidRequest, Unsupported."""
    kind = kind_of(block, path)
    if kind == "text":
        return to_parts(checked(block, TextBlock, path).text)
    if kind == "document":
        return (TextPart(_document(checked(block, DocumentBlock, path), path)),)
    if kind == "search_result":
        return (TextPart(_search_result(checked(block, SearchResultBlock, path), path)),)
    if kind == "image":
        return (_image(checked(block, ImageBlock, path).source, f"{path}.source"),)
    if kind == "container_upload":
        raise Unsupported("There are no containers here that files could be loaded into.", param=path)
    raise unexpected(kind, path)


def unexpected(kind: str, path: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{path}.type': '{kind[:64]}' is not expected here.", param=f"{path}.type")


def _image(source: ImageSource, path: str) -> Part:
    if source.type == "base64":
        media_type = checked(source.media_type, str, f"{path}.media_type")
        if not media_type.lower().startswith("image/"):
            raise InvalidRequest(
                f"Invalid value for '{path}.media_type': '{media_type[:60]}' is no image.", param=f"{path}.media_type"
            )
        return read_base64(checked(source.data, str, f"{path}.data"), "image", f"{path}.data")
    if source.type == "url":
        return read_source(checked(source.url, str, f"{path}.url"), "image", f"{path}.url")
    if source.type == "file":
        raise Unsupported("There are no uploaded files here; send the image as base64.", param=path)
    raise unexpected(source.type, path)


def _document(document: DocumentBlock, path: str) -> str:
    _refuse_citations(document.citations, path)
    text = _source(document.source, f"{path}.source")
    return _framed("document", {"Title": document.title, "Context": document.context}, text)


def _source(source: Source, path: str) -> str:
    if source.type in _UNREADABLE:
        raise Unsupported(f"Documents of type '{source.type}': {_UNREADABLE[source.type]}.", param=path)
    if source.type == "text":
        return checked(source.data, str, f"{path}.data")
    if source.type != "content":
        raise unexpected(source.type, path)
    if source.content is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.content'.", param=f"{path}.content")
    return "".join(part.text for part in read_text_blocks(source.content, f"{path}.content"))


def _search_result(result: SearchResultBlock, path: str) -> str:
    _refuse_citations(result.citations, path)
    text = "".join(part.text for part in read_text_blocks(result.content, f"{path}.content"))
    return _framed("search_result", {"Title": result.title, "Source": result.source}, text)


def _framed(tag: str, heads: dict[str, str | None], text: str) -> str:
    lines = [f"{name}: {value}\n" for name, value in heads.items() if value]
    separator = "\n" if lines else ""
    return f"<{tag}>\n{''.join(lines)}{separator}{text}\n</{tag}>\n"


def _refuse_citations(citations: Citations | None, path: str) -> None:
    if citations is not None and citations.enabled:
        raise Unsupported("Citations are not available: leave them out or disable them.", param=f"{path}.citations")
