"""`input` to items in one form, which is kept and listed, and items to neutral messages.

Items of a kind that is not known are left out with a line in the log: an agent's history must never be refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dmr.errors import InvalidRequest
from dmr.types import Message, Part, Role, TextPart, ToolCall
from dmr_server.custom_input import arguments_of
from dmr_server.fields import checked
from dmr_server.responses.content import read_content, read_texts, to_parts
from dmr_server.responses.sealed import seal, unseal
from dmr_server.responses.tools import flat_name
from dmr_server.responses.wire import ROLES
from dmr_server.unpacking import Unpacker

log = logging.getLogger("dmr.server")

Item = dict[str, Any]
FindItem = Callable[[str], Item]  # an item of a kept answer by its id; raises ResponseNotFound

SUMMARY_OF_BEFORE = "Summary of the conversation before this point:\n\n"


class ItemReader:
    """Reads the items of one request. Ids are made from `suffix`, where a client gave none."""

    def __init__(self, suffix: str, find: FindItem) -> None:
        self._suffix = suffix
        self._find = find
        self._unpacker = Unpacker()
        self._num_read = 0

    def read(self, value: Any) -> list[Item]:
        """The items of `input`; raises InvalidRequest, Unsupported, ResponseNotFound for a reference."""
        if isinstance(value, str):
            value = [{"role": "user", "content": value}]
        listed = checked(value, list[dict[str, Any]], "input")
        items: list[Item] = []
        for index, item in enumerate(listed):
            read = self._item(item, f"input[{index}]")
            if read is not None:
                items.append(read)
        return items

    def _item(self, item: Item, path: str) -> Item | None:
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind is None and set(item) == {"id"}:  # the short form of a reference
            kind = "item_reference"
        reader = self._READERS.get(kind) if isinstance(kind, str) else None
        if kind is None or not isinstance(kind, str):
            raise InvalidRequest(f"Missing required parameter: '{path}.type'.", param=f"{path}.type")
        if reader is None:
            log.info("an input item of type '%.60s' is left out", kind)
            return None
        return reader(self, item, path)

    def _id(self, item: Item, kind: str) -> str:
        given = item.get("id")
        self._num_read += 1
        return given if isinstance(given, str) and given else f"{kind}_{self._suffix}_i{self._num_read - 1}"

    def _message(self, item: Item, path: str) -> Item:
        role = item.get("role")
        if role not in ROLES:
            names = ", ".join(ROLES)
            raise InvalidRequest(f"Invalid value for '{path}.role': expected one of {names}.", param=f"{path}.role")
        if item.get("content") is None:
            raise InvalidRequest(f"Missing required parameter: '{path}.content'.", param=f"{path}.content")
        if role == "assistant":
            texts = read_texts(item["content"], f"{path}.content")
            content: list[Item] = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
        else:
            content = read_content(item["content"], f"{path}.content")
        return {
            "type": "message",
            "id": self._id(item, "msg"),
            "status": "completed",
            "role": role,
            "content": content,
        }

    def _function_call(self, item: Item, path: str) -> Item:
        arguments = item.get("arguments")
        return {
            **self._call(item, path, "function_call", "fc"),
            "arguments": checked("{}" if arguments in (None, "") else arguments, str, f"{path}.arguments"),
        }

    def _custom_call(self, item: Item, path: str) -> Item:
        text = checked(item.get("input") or "", str, f"{path}.input")
        return {**self._call(item, path, "custom_tool_call", "ctc"), "input": text}

    def _call(self, item: Item, path: str, kind: str, prefix: str) -> Item:
        call = {
            "type": kind,
            "id": self._id(item, prefix),
            "status": "completed",
            "call_id": _required(item, "call_id", path),
            "name": _required(item, "name", path),
        }
        if item.get("namespace") is not None:
            call["namespace"] = checked(item["namespace"], str, f"{path}.namespace")
        return call

    def _function_output(self, item: Item, path: str) -> Item:
        return self._output(item, path, "fco")

    def _custom_output(self, item: Item, path: str) -> Item:
        return self._output(item, path, "ctco")

    def _output(self, item: Item, path: str, prefix: str) -> Item:
        output = item.get("output")
        if output is None:
            raise InvalidRequest(f"Missing required parameter: '{path}.output'.", param=f"{path}.output")
        return {
            "type": item["type"],
            "id": self._id(item, prefix),
            "status": "completed",
            "call_id": _required(item, "call_id", path),
            "output": output if isinstance(output, str) else read_content(output, f"{path}.output"),
        }

    def _reasoning(self, item: Item, path: str) -> Item:
        sealed = item.get("encrypted_content")
        text = unseal(sealed, self._unpacker) if isinstance(sealed, str) else None
        for name in ("content", "summary"):
            text = text or "\n\n".join(read_texts(item.get(name) or [], f"{path}.{name}"))
        return {
            "type": "reasoning",
            "id": self._id(item, "rs"),
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text or ""}],
        }

    def _compaction(self, item: Item, path: str) -> Item:
        sealed = _required(item, "encrypted_content", path)
        if unseal(sealed, self._unpacker) is None:
            raise InvalidRequest(
                f"'{path}.encrypted_content' was not made by this server.", param=f"{path}.encrypted_content"
            )
        return {"type": "compaction", "id": self._id(item, "cmp"), "encrypted_content": sealed}

    def _reference(self, item: Item, path: str) -> Item:
        return self._find(_required(item, "id", path))

    _READERS: Mapping[str, Callable[[ItemReader, Item, str], Item]] = {
        "message": _message,
        "function_call": _function_call,
        "function_call_output": _function_output,
        "custom_tool_call": _custom_call,
        "custom_tool_call_output": _custom_output,
        "reasoning": _reasoning,
        "compaction": _compaction,
        "item_reference": _reference,
    }


def compaction_of(id: str, summary: str) -> Item:
    """The item that stands for a history that was summed up."""
    return {"type": "compaction", "id": id, "encrypted_content": seal(summary)}


def _required(item: Item, name: str, path: str) -> str:
    value = item.get(name)
    if value is None or value == "":
        raise InvalidRequest(f"Missing required parameter: '{path}.{name}'.", param=f"{path}.{name}")
    return checked(value, str, f"{path}.{name}")


def to_messages(items: Iterable[Item]) -> tuple[Message, ...]:
    """Kept items as a conversation: a thought, the text after it and the calls after that are one turn."""
    turn, unpacker = _Turn(), Unpacker()
    messages: list[Message] = []
    for item in items:
        if _is_of_assistant(item):
            messages.extend(turn.add(item))
            continue
        messages.extend(turn.end())
        messages.append(_said(item, unpacker))
    messages.extend(turn.end() if turn.has_answer else ())  # a thought that nothing came of is no turn to continue
    return tuple(messages)


def _is_of_assistant(item: Item) -> bool:
    return item["type"] in ("reasoning", "function_call", "custom_tool_call") or item.get("role") == "assistant"


def _said(item: Item, unpacker: Unpacker) -> Message:
    kind = item["type"]
    if kind == "message":
        role = Role.USER if item["role"] == "user" else Role.SYSTEM
        return Message(role, to_parts(item["content"]))
    if kind == "compaction":
        summary = unseal(item["encrypted_content"], unpacker) or ""
        return Message(Role.USER, (TextPart(SUMMARY_OF_BEFORE + summary),))
    output = item["output"]
    parts = (TextPart(output),) if isinstance(output, str) else to_parts(output)
    return Message(Role.TOOL, parts, tool_call_id=item["call_id"])


class _Turn:
    """What the assistant has said since anybody else spoke."""

    def __init__(self) -> None:
        self._thoughts: list[str] = []
        self._parts: tuple[Part, ...] = ()
        self._calls: list[ToolCall] = []

    @property
    def has_answer(self) -> bool:
        return bool(self._parts or self._calls)

    def add(self, item: Item) -> Iterator[Message]:
        """Take an item in; the turn before it comes out if the item begins another."""
        kind = item["type"]
        if kind != "message" and item.get("status") == "incomplete" and kind != "reasoning":
            return  # half a call, which nobody has answered
        if kind == "reasoning":
            if self.has_answer:
                yield from self.end()
            thought = "".join(part["text"] for part in item.get("content") or item.get("summary") or ())
            if thought or self._thoughts:
                self._thoughts.append(thought)
        elif kind == "message":
            if self._parts:
                yield from self.end()
            self._parts = to_parts(item["content"])
        else:
            arguments = item["arguments"] if kind == "function_call" else arguments_of(item["input"])
            name = flat_name(item["name"], item.get("namespace"))
            self._calls.append(ToolCall(item["call_id"], name, arguments or "{}"))

    def end(self) -> Iterator[Message]:
        """The turn as a message, if there was one."""
        if self.has_answer or self._thoughts:
            yield Message(Role.ASSISTANT, self._parts, "\n\n".join(self._thoughts), tuple(self._calls))
        self._thoughts, self._parts, self._calls = [], (), []
