"""System prompts, turns and content blocks: what the model is told."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.types import MediaLink, MediaPart, Message, Role, TextPart, ToolCall

USER = {"role": "user", "content": "Hi"}
SAID_HI = Message(Role.USER, (TextPart("Hi"),))
BILLING = "x-anthropic-billing-header: cc_version=2.1.330; cc_entrypoint=cli; cch=1f0a2;"


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def said(role: Role, *texts: str) -> Message:
    return Message(role, tuple(map(TextPart, texts)))


@pytest.fixture
def post(client: falcon.testing.TestClient, service: FakeService, answer: Any) -> Any:
    def ask(messages: Any, **body: Any) -> falcon.testing.Result:
        service.enqueue(*answer)
        base = {"model": "ai/smollm2", "max_tokens": 64, "messages": messages}
        return client.simulate_post("/v1/messages", json={**base, **body})

    return ask


@pytest.fixture
def told(post: Any, service: FakeService) -> Any:
    def ask(*messages: Any, **body: Any) -> tuple[Message, ...]:
        result = post(messages, **body)
        assert result.status_code == 200, result.text
        chat: Any = service.requests[-1].input
        return tuple(chat.messages)

    return ask


@pytest.mark.parametrize(
    ("system", "texts"),
    [
        ("Be brief.", ("Be brief.",)),
        ([text("Be brief.", cache_control={"type": "ephemeral"})], ("Be brief.",)),
        ([text("Be "), text("brief.")], ("Be ", "brief.")),
        ([text(BILLING), text("Be brief.")], ("Be brief.",)),
        ([text(f"{BILLING}\n\nBe brief.")], ("Be brief.",)),
        (f"{BILLING}\nBe brief.", ("Be brief.",)),
        (f"Never write {BILLING}", (f"Never write {BILLING}",)),
    ],
)
def test_system(told: Any, system: Any, texts: tuple[str, ...]) -> None:
    assert told(USER, system=system) == (said(Role.SYSTEM, *texts), SAID_HI)


@pytest.mark.parametrize("system", ["", [], [text("")], [text(BILLING)], BILLING])
def test_no_system(told: Any, system: Any) -> None:
    assert told(USER, system=system) == (SAID_HI,)


def test_strings_and_blocks_mean_the_same(told: Any) -> None:
    """Claude Code turns one into the other between requests: the prompts must begin alike."""
    as_text = told(USER, {"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}, USER)
    blocks = [{"role": turn.role.value, "content": [text(turn.text, cache_control=None)]} for turn in as_text]
    assert told(*blocks) == as_text


def test_roles_stay_in_their_order(told: Any) -> None:
    late = {"role": "system", "content": [text("Late."), text("Later.")]}
    assert told(USER, late, USER, {"role": "system", "content": ""}) == (
        SAID_HI,
        said(Role.SYSTEM, "Late.", "Later."),
        SAID_HI,
    )


def test_a_system_turn_may_be_for_one_turn_only(told: Any) -> None:
    passing = {"role": "system", "content": "Hurry.", "clear_at": "next_user_message"}
    assert told(USER, passing) == (SAID_HI, said(Role.SYSTEM, "Hurry."))
    assert told(USER, passing, USER) == (SAID_HI, SAID_HI)
    assert told(USER, {**passing, "clear_at": "never"}, USER) == (SAID_HI, said(Role.SYSTEM, "Hurry."), SAID_HI)


def test_a_prefill_stays_as_it_is(told: Any) -> None:
    assert told(USER, {"role": "assistant", "content": "The answer is ( "})[-1] == said(
        Role.ASSISTANT, "The answer is ( "
    )


CALL = {"type": "tool_use", "id": "toolu_a", "name": "weather", "input": {"city": "Rome"}}
ASSISTANT = {"role": "assistant", "content": [text("Let me look."), CALL]}
CALLED = Message(
    Role.ASSISTANT, (TextPart("Let me look."),), tool_calls=(ToolCall("call_a", "weather", '{"city":"Rome"}'),)
)


def result(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_a", "content": content, **more}]}


def answered(*texts: str) -> Message:
    return Message(Role.TOOL, tuple(map(TextPart, texts)), tool_call_id="call_a", name="weather")


@pytest.mark.parametrize(
    ("content", "more", "texts"),
    [
        ("Rain", {}, ("Rain",)),
        ([text("Rain"), text("!")], {}, ("Rain", "!")),
        (None, {}, ()),
        ("", {}, ()),
        ([], {}, ()),
        ("no such city", {"is_error": True}, ("The tool failed: ", "no such city")),
        (None, {"is_error": True}, ("The tool failed: ",)),
        ("Rain", {"is_error": False, "cache_control": {"type": "ephemeral"}}, ("Rain",)),
        ([{"type": "tool_reference", "tool_name": "clock"}], {}, ("The tool 'clock' can be called now.\n",)),
        (
            [{"type": "search_result", "title": "T", "source": "S", "content": [text("Found")]}],
            {},
            ("<search_result>\nTitle: T\nSource: S\n\nFound\n</search_result>\n",),
        ),
        (
            [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "D"}}],
            {},
            ("<document>\nD\n</document>\n",),
        ),
    ],
)
def test_tool_results(told: Any, content: Any, more: dict[str, Any], texts: tuple[str, ...]) -> None:
    assert told(USER, ASSISTANT, result(content, **more)) == (SAID_HI, CALLED, answered(*texts))


def test_results_come_before_what_the_user_says(told: Any) -> None:
    turn = {"role": "user", "content": [text("Look:"), *result("Rain")["content"], text("Thanks.")]}
    assert told(USER, ASSISTANT, turn)[2:] == (answered("Rain"), said(Role.USER, "Look:", "Thanks."))


def test_ids_of_others_are_kept(told: Any) -> None:
    call, answer = {**CALL, "id": "abc123"}, {"type": "tool_result", "tool_use_id": "abc123", "content": "Rain"}
    called, tool = told({"role": "assistant", "content": [call]}, {"role": "user", "content": [answer]})
    assert (called.tool_calls[0].id, tool.tool_call_id, tool.name) == ("abc123", "abc123", "weather")


def test_a_result_without_its_call_is_taken(told: Any) -> None:
    assert told(result("Rain")) == (Message(Role.TOOL, (TextPart("Rain"),), tool_call_id="call_a"),)


def thinking(value: str, signature: str = "EqoB") -> dict[str, Any]:
    return {"type": "thinking", "thinking": value, "signature": signature}


@pytest.mark.parametrize(
    ("blocks", "reasoning"),
    [
        ([thinking("Hm.")], "Hm."),
        ([thinking("Hm. "), thinking("Yes.", "dmr1")], "Hm. Yes."),
        ([thinking("", "EqoBCkgIARABGAIiQ")], ""),
        ([thinking("", "dmr1z.")], ""),
        ([thinking("", "dmr1z.!!")], ""),
        ([thinking("", "dmr1z.eJwLyUitVEgvSk0t0Q==")], ""),  # cut short
        ([{"type": "redacted_thinking", "data": "EmwK"}], ""),
    ],
)
def test_thinking_is_given_back(told: Any, blocks: list[Any], reasoning: str) -> None:
    turn = told(USER, {"role": "assistant", "content": [*blocks, text("Hi")]}, USER)[1]
    assert turn == Message(Role.ASSISTANT, (TextPart("Hi"),), reasoning=reasoning)


def test_what_a_server_did_is_left_out(told: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dmr.server")
    use = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    assert told(USER, {"role": "assistant", "content": [use, found, text("Hi")]}, USER)[1] == said(Role.ASSISTANT, "Hi")
    assert "server_tool_use" in caplog.text
    assert "web_search_tool_result" in caplog.text


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (
            {"source": {"type": "text", "media_type": "text/plain", "data": "D"}, "title": "T", "context": "C"},
            "<document>\nTitle: T\nContext: C\n\nD\n</document>\n",
        ),
        ({"source": {"type": "content", "content": "D"}, "title": None}, "<document>\nD\n</document>\n"),
        (
            {"source": {"type": "content", "content": [text("D"), text("E")]}, "citations": {"enabled": False}},
            "<document>\nDE\n</document>\n",
        ),
    ],
)
def test_documents(told: Any, block: dict[str, Any], expected: str) -> None:
    turn = {"role": "user", "content": [{"type": "document", **block}, text("What is it?")]}
    assert told(turn) == (said(Role.USER, expected, "What is it?"),)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": {**IMAGE["source"], **source}}


def test_pictures(told: Any) -> None:
    turn = {"role": "user", "content": [text("This"), IMAGE, text("or"), image(type="url", url="https://a.example/b")]}
    (message,) = told(turn)
    assert message.parts == (
        TextPart("This"),
        MediaPart("image", b"\0\0\0"),
        TextPart("or"),
        MediaLink("image", "https://a.example/b", param="messages[0].content[3].source.url"),
    )


def test_pictures_in_results(told: Any) -> None:
    (message,) = told(result([text("A screenshot:"), IMAGE]))
    assert message.role is Role.TOOL
    assert message.parts == (TextPart("A screenshot:"), MediaPart("image", b"\0\0\0"))


def document(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "document", "source": {"type": kind, "media_type": "application/pdf", "data": "AAAA"}, **more}


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "user", "content": [image(data="?")]}, "messages[0].content[0].source.data"),
        ({"role": "user", "content": [image(data="")]}, "empty"),
        ({"role": "user", "content": [image(data=None)]}, "messages[0].content[0].source.data"),
        ({"role": "user", "content": [image(media_type="text/html")]}, "is no image"),
        ({"role": "user", "content": [image(media_type=None)]}, "messages[0].content[0].source.media_type"),
        ({"role": "user", "content": [image(type="url")]}, "messages[0].content[0].source.url"),
        ({"role": "user", "content": [image(type="url", url="file:///etc/passwd")]}, "file:"),
        ({"role": "user", "content": [image(type="file", file_id="f")]}, "no uploaded files"),
        ({"role": "user", "content": [image(type="tape")]}, "messages[0].content[0].source.type"),
        ({"role": "user", "content": [{"type": "image"}]}, "messages[0].content[0].source"),
        ({"role": "user", "content": [document("base64")]}, "PDF"),
        ({"role": "user", "content": [document("url")]}, "does not fetch"),
        ({"role": "user", "content": [document("file")]}, "does not fetch"),
        ({"role": "user", "content": [document("tape")]}, "messages[0].content[0].source.type"),
        ({"role": "user", "content": [document("content")]}, "messages[0].content[0].source.content"),
        ({"role": "user", "content": [document("text", citations={"enabled": True})]}, "Citations"),
        ({"role": "user", "content": [{"type": "document"}]}, "messages[0].content[0].source"),
        ({"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}, "containers"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"text": "Hi"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": 7}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": ["Hi"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [CALL]}, "messages[0].content[0].type"),
        ({"role": "user", "content": 7}, "messages[0].content"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "tool_result"}]}, "tool_use_id"),
        ({"role": "assistant", "content": [{"type": "tool_use", "name": "a", "input": {}}]}, "content[0].id"),
        ({"role": "assistant", "content": [{"type": "tool_use", "id": "a", "input": {}}]}, "content[0].name"),
        ({"role": "assistant", "content": [{**CALL, "input": "{}"}]}, "messages[0].content[0].input"),
        ({"role": "assistant", "content": [IMAGE]}, "messages[0].content[0].type"),
        ({"role": "assistant", "content": [{"type": "compaction", "content": "x"}]}, "messages[0].content[0].type"),
        ({"role": "tool", "content": "Rain"}, "messages[0].role"),
        ({"role": "system", "content": [IMAGE]}, "messages[0].content[0].type"),
        ({"role": "system", "content": "S", "output_config": {"effort": "low"}}, "messages[0].output_config"),
        ({"role": "system", "content": "S", "clear_at": "noon"}, "messages[0].clear_at"),
        ({"content": "Hi"}, "messages[0].role"),
        ("Hi", "messages[0]"),
    ],
)
def test_bad_turns(post: Any, service: FakeService, turn: Any, message: str) -> None:
    answer = post([turn])
    assert (answer.status_code, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert message in answer.json["error"]["message"]
    assert service.requests == []
