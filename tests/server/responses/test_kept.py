"""Answers that are kept: fetched, continued, listed, deleted, cancelled, in the background; in any worker."""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import falcon.testing
import openai
import pytest
from fakes import FakeService, Step
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import TypeAdapter

from dmr.config import Settings
from dmr.errors import EngineCrashed, ModelLoadFailed
from dmr.types import (
    ChatInput,
    Completed,
    Finished,
    FinishReason,
    MediaLink,
    MediaPart,
    Message,
    ReasoningDelta,
    Role,
    Started,
    TextDelta,
    TextPart,
    Tick,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from dmr_server.dialect import Client as Live
from dmr_server.responses import background, keeping, storage
from dmr_server.responses.resources import FILE_NAME

Client = falcon.testing.TestClient
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
END = (Finished(0, FinishReason.STOP), Completed(Usage(5, 0, 2, 0)))
HELLO = (Started(5), ReasoningDelta(0, "They greet."), TextDelta(0, "Hello"), TextDelta(0, "!"), *END)
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
CALL = (
    Started(5),
    ToolCallStart(0, 0, "call_a", "weather"),
    ToolCallDelta(0, 0, '{"city":"Rome"}'),
    Finished(0, FinishReason.TOOL_CALLS),
    Completed(Usage(5, 0, 2, 0)),
)


@pytest.fixture
def post(client: Client, service: FakeService) -> Callable[..., falcon.testing.Result]:
    def post(*steps: Step, **body: Any) -> falcon.testing.Result:
        service.enqueue(*(steps or HELLO))
        return client.simulate_post("/v1/responses", json={"model": "ai/smollm2", "input": "Hi", **body})

    return post


Post = Callable[..., falcon.testing.Result]


def events_of(result: falcon.testing.Result) -> list[dict[str, Any]]:
    assert result.headers["content-type"] == "text/event-stream"
    lines = [line for line in result.text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    for event in events:
        EVENTS.validate_python(event)
    return events


def until(check: Callable[[], Any], seconds: float = 5) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found
    return found


def get(client: Client, id: str, **query: Any) -> falcon.testing.Result:
    return client.simulate_get(f"/v1/responses/{id}", params=query)


def wait_for_end(client: Client, id: str) -> Any:
    return until(lambda: (answer := get(client, id).json)["status"] not in ("queued", "in_progress") and answer)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_can_be_fetched_from_any_worker(post: Post, new_client: Callable[[], Client], stream: bool) -> None:
    answer = post(stream=stream)
    expected = events_of(answer)[-1]["response"] if stream else answer.json
    for client in (new_client(), new_client()):
        fetched = get(client, "resp_1")
        assert fetched.json == expected
        Response.model_validate(fetched.json)


def test_nothing_is_kept_that_should_not_be(post: Post, client: Client) -> None:
    assert post(store=False).json["store"] is False
    assert get(client, "resp_1").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_9"),
        ("DELETE", "/v1/responses/resp_9"),
        ("GET", "/v1/responses/resp_9/input_items"),
        ("POST", "/v1/responses/resp_9/cancel"),
    ],
)
def test_unknown_ids(client: Client, method: str, path: str) -> None:
    result = client.simulate_request(method, path)
    assert result.status_code == 404
    assert result.json["error"]["message"] == "Response with id 'resp_9' not found."


def test_the_whole_conversation_is_read_again(post: Post, service: FakeService) -> None:
    post(*CALL, instructions="Be brief.", tools=[TOOL])
    output = {"type": "function_call_output", "call_id": "call_a", "output": "blue"}
    post(input=[output], previous_response_id="resp_1", stream=True)
    third = post(input="Thanks", previous_response_id="resp_2", instructions="Be long.")
    conversation = service.requests[-1].input
    assert isinstance(conversation, ChatInput)
    assert conversation.messages == (
        Message(Role.SYSTEM, (TextPart("Be long."),)),
        Message(Role.USER, (TextPart("Hi"),)),
        Message(Role.ASSISTANT, tool_calls=(ToolCall("call_a", "weather", '{"city":"Rome"}'),)),
        Message(Role.TOOL, (TextPart("blue"),), tool_call_id="call_a"),
        Message(Role.ASSISTANT, (TextPart("Hello!"),), "They greet."),
        Message(Role.USER, (TextPart("Thanks"),)),
    )
    assert third.json["previous_response_id"] == "resp_2"


def test_half_a_call_is_not_read_again(post: Post, service: FakeService) -> None:
    post(*CALL[:2], ToolCallDelta(0, 0, '{"ci'), Finished(0, FinishReason.LENGTH), Completed(Usage(5, 0, 2, 0)))
    post(previous_response_id="resp_1", input="Go on")
    conversation = service.requests[-1].input
    assert isinstance(conversation, ChatInput)
    assert [message.text for message in conversation.messages] == ["Hi", "Go on"]


def test_an_unknown_previous_answer(post: Post, client: Client) -> None:
    post()
    post(previous_response_id="resp_1")
    client.simulate_delete("/v1/responses/resp_1")
    for id in ("resp_1", "resp_2"):
        result = post(previous_response_id=id)
        error = result.json["error"]
        assert (result.status_code, error["code"]) == (404, "previous_response_not_found")
        assert (error["param"], error["type"]) == ("previous_response_id", "invalid_request_error")
        assert "'resp_1'" in error["message"]


def test_items_by_reference(post: Post, service: FakeService) -> None:
    output = post().json["output"]
    post(
        input=[
            {"role": "user", "content": "Hi"},
            *({"type": "item_reference", "id": item["id"]} for item in output),
            {"role": "user", "content": "More"},
        ]
    )
    conversation = service.requests[-1].input
    assert isinstance(conversation, ChatInput)
    assert conversation.messages[1] == Message(Role.ASSISTANT, (TextPart("Hello!"),), "They greet.")
    for id in ("msg_9_0", "msg_1_7", "nonsense"):
        result = post(input=[{"type": "item_reference", "id": id}])
        assert result.status_code == 404
        assert result.json["error"]["message"] == f"Item with id '{id}' not found."


def test_input_items(post: Post, client: Client) -> None:
    post(input=[{"role": "user", "content": "a", "id": "mine"}, {"role": "assistant", "content": "b"}])
    post(input="c", previous_response_id="resp_1")

    def listed(**query: Any) -> Any:
        result = client.simulate_get("/v1/responses/resp_2/input_items", params=query)
        return ResponseItemList.model_validate(result.json)

    ids = ["mine", "msg_1_i1", "rs_1_0", "msg_1_1", "msg_2_i0"]
    assert [item.id for item in listed(order="asc").data] == ids
    assert [item.id for item in listed().data] == ids[::-1]
    page = listed(order="asc", limit=2, after="mine")
    assert ([item.id for item in page.data], page.first_id, page.last_id) == (ids[1:3], ids[1], ids[2])
    assert page.has_more
    assert not listed(order="asc", limit=2, after="rs_1_0").has_more
    for query, status in (({"order": "up"}, 400), ({"limit": 0}, 400), ({"limit": "x"}, 400), ({"after": "?"}, 404)):
        assert client.simulate_get("/v1/responses/resp_2/input_items", params=query).status_code == status


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
LINK = {"type": "input_image", "image_url": "https://a.example/b.png", "detail": "auto"}


def test_pictures_are_kept(post: Post, client: Client, service: FakeService) -> None:
    post(input=[{"role": "user", "content": [{"type": "input_text", "text": "See"}, IMAGE, LINK]}])
    post(input="And?", previous_response_id="resp_1")
    conversation = service.requests[-1].input
    assert isinstance(conversation, ChatInput)
    first = conversation.messages[0]
    assert first.parts == (
        TextPart("See"),
        MediaPart("image", b"\0\0\0", "low"),
        MediaLink("image", "https://a.example/b.png", param="input"),
    )
    listed = client.simulate_get("/v1/responses/resp_1/input_items").json["data"]
    assert listed[0]["content"] == [{"type": "input_text", "text": "See"}, IMAGE, LINK]


def test_delete(post: Post, client: Client) -> None:
    post()
    result = client.simulate_delete("/v1/responses/resp_1")
    assert result.json == {"id": "resp_1", "object": "response.deleted", "deleted": True}
    assert get(client, "resp_1").status_code == 404
    assert client.simulate_delete("/v1/responses/resp_1").status_code == 404


@pytest.mark.parametrize(
    "steps",
    [
        HELLO,
        CALL,
        (*HELLO[:3], Finished(0, FinishReason.LENGTH), Completed(Usage(5, 0, 2, 0))),
        (*HELLO[:3], EngineCrashed("It died.")),
        (Started(5), ToolCallStart(0, 0, "c", "patch"), ToolCallDelta(0, 0, '{"input":"a\\nb"}'), *END),
    ],
    ids=["text", "call", "length", "failed", "custom"],
)
def test_a_kept_answer_is_played_again(post: Post, client: Client, steps: tuple[Step, ...]) -> None:
    tools = [TOOL, {"type": "custom", "name": "patch"}]
    live = events_of(post(*steps, stream=True, tools=tools))
    again = events_of(get(client, "resp_1", stream="true"))
    assert [event["sequence_number"] for event in again] == list(range(len(again)))
    state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    for event in again:
        state.handle_event(EVENTS.validate_python(event))
    assert again[0] == live[0]
    assert again[-1]["response"] == live[-1]["response"]
    if not isinstance(steps[-1], Exception):
        kinds = [[key for key, _ in itertools.groupby(event["type"] for event in events)] for events in (again, live)]
        assert kinds[0] == kinds[1]
    assert events_of(get(client, "resp_1", stream="true", starting_after=3)) == again[4:]
    for query in ({"stream": "perhaps"}, {"stream": "true", "starting_after": "-1"}):
        assert get(client, "resp_1", **query).status_code == 400


def test_a_client_that_leaves(client: Client, service: FakeService) -> None:
    service.enqueue(*HELLO)
    body = {"model": "ai/smollm2", "input": "Hi", "stream": True}
    environ = falcon.testing.create_environ(method="POST", path="/v1/responses", body=json.dumps(body))
    answer: Any = client.app(environ, falcon.testing.StartResponseMock())
    frames = list(itertools.islice(answer, 3))
    assert b"reasoning" in frames[0]
    assert get(client, "resp_1").json["status"] == "in_progress"
    answer.close()
    assert service.streams[0].closed
    left = get(client, "resp_1").json
    assert (left["status"], left["usage"]) == ("cancelled", None)
    assert [item["status"] for item in left["output"]] == ["completed", "incomplete"]
    assert left["output"][1]["content"][0]["text"] == "Hello!"
    Response.model_validate(left)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOOK_INTERVAL", 0.0)
    monkeypatch.setattr(keeping, "FLUSH_INTERVAL", 0.0)
    monkeypatch.setattr(background, "POLL_INTERVAL", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_stream_is_ended_from_another_worker(
    client: Client, service: FakeService, new_client: Callable[[], Client], how: str
) -> None:
    other = new_client()

    def steps() -> Iterator[Step]:
        yield from HELLO[:3]
        if how == "cancel":
            cancelled = other.simulate_post("/v1/responses/resp_1/cancel")
            assert cancelled.json["status"] == "cancelled"
            Response.model_validate(cancelled.json)
        else:
            other.simulate_delete("/v1/responses/resp_1")
        yield Tick()
        yield TextDelta(0, "never")
        yield from END

    service._scripts.append(steps())
    body = {"model": "ai/smollm2", "input": "Hi", "stream": True}
    events = events_of(client.simulate_post("/v1/responses", json=body))
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
    assert "never" not in json.dumps(events)
    assert service.streams[0].closed
    if how == "delete":
        assert get(client, "resp_1").status_code == 404
        return
    assert get(client, "resp_1").json == last["response"]
    again = other.simulate_post("/v1/responses/resp_1/cancel")
    assert (again.status_code, again.json) == (200, last["response"])


def test_what_has_ended_cannot_be_cancelled(post: Post, client: Client) -> None:
    post()
    result = client.simulate_post("/v1/responses/resp_1/cancel")
    assert result.status_code == 400
    assert "completed already" in result.json["error"]["message"]


def test_an_answer_whose_worker_died_has_failed(
    client: Client, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.enqueue(*HELLO)
    body = {"model": "ai/smollm2", "input": "Hi", "stream": True}
    environ = falcon.testing.create_environ(method="POST", path="/v1/responses", body=json.dumps(body))
    answer: Any = client.app(environ, falcon.testing.StartResponseMock())
    next(answer)
    later = client.simulate_post("/v1/responses", json={**body, "previous_response_id": "resp_1"})
    assert (later.status_code, "in progress" in later.text) == (400, True)
    monkeypatch.setattr(keeping, "STALE", -100 * 365 * 86400.0)
    found = get(client, "resp_1").json
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    answer.close()


@pytest.mark.usefixtures("quick")
def test_in_the_background(post: Post, client: Client, service: FakeService) -> None:
    queued = post(*HELLO, background=True).json
    assert (queued["status"], queued["output"], queued["background"]) == ("queued", [], True)
    Response.model_validate(queued)
    done = wait_for_end(client, "resp_1")
    assert (done["status"], done["output_text"]) == ("completed", "Hello!")
    assert service.requests[0].client
    assert events_of(get(client, "resp_1", stream="true"))[-1]["response"] == done


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("steps", [(ModelLoadFailed("Too large."),), (*HELLO[:3], ValueError("x")), HELLO[:3]])
def test_a_failure_in_the_background_can_be_fetched(
    post: Post, client: Client, steps: tuple[Step, ...], stream: bool
) -> None:
    answer = post(*steps, background=True, stream=stream)
    failed = wait_for_end(client, "resp_1")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    if stream:
        events = events_of(answer)
        assert [event["type"] for event in events[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]


@pytest.mark.usefixtures("quick")
def test_a_background_stream_is_followed_and_taken_up_again(
    client: Client, service: FakeService, new_client: Callable[[], Client]
) -> None:
    def slowly() -> Iterator[Step]:
        yield HELLO[0]
        for number in range(10):
            time.sleep(0.02)
            yield TextDelta(0, f"{number} ")
        yield from END

    service._scripts.append(slowly())
    body = {"model": "ai/smollm2", "input": "Hi", "stream": True, "background": True}
    events = events_of(client.simulate_post("/v1/responses", json=body))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert sum(event["type"] == "response.output_text.delta" for event in events) == 10
    assert events[0]["response"]["status"] == "queued"
    assert events[-1]["response"]["output_text"] == "0 1 2 3 4 5 6 7 8 9 "
    for after in (-1, 0, 7, len(events) - 2, len(events) + 5):
        query = {"stream": "true", **({"starting_after": after} if after >= 0 else {})}
        assert events_of(get(new_client(), "resp_1", **query)) == events[after + 1 :]


def test_following_does_not_read_the_answer_again_and_again(
    post: Post, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(background=True, stream=True)
    store = storage.ResponseStore(settings.models_path / FILE_NAME)
    until(lambda: store.get("resp_1").status == "completed")  # type: ignore[union-attr]
    monkeypatch.setattr(storage.ResponseStore, "get", None)
    with closing(store):
        follower = background.Follower(store, "resp_1", Live({}))
        assert b"response.completed" in b"".join(follower)


@pytest.mark.usefixtures("quick")
def test_a_background_answer_is_cancelled(client: Client, service: FakeService) -> None:
    service._scripts.append(itertools.chain(HELLO[:3], iter(lambda: time.sleep(0.01) or Tick(), None)))  # type: ignore[arg-type]
    body = {"model": "ai/smollm2", "input": "Hi", "background": True}
    client.simulate_post("/v1/responses", json=body)
    until(lambda: get(client, "resp_1").json["status"] == "in_progress")
    assert client.simulate_post("/v1/responses/resp_1/cancel").json["status"] == "cancelled"
    until(lambda: service.streams[0].closed)
    until(lambda: get(client, "resp_1").json["output"])
    assert get(client, "resp_1").json["status"] == "cancelled"


def test_background_answers_are_bounded(post: Post, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    assert post(background=True, model="nobody").status_code == 404
    taken = [0]

    def full(self: Any, blocking: bool = True) -> bool:
        taken[0] += 1
        return False

    monkeypatch.setattr("threading.BoundedSemaphore.acquire", full)
    result = post(background=True)
    assert (result.status_code, taken) == (503, [1])
    assert "retry-after" in result.headers


def test_without_a_place_to_keep_them_answers_still_come(
    tmp_path: Path, new_client: Callable[[], Client], service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "models").write_text("in the way")
    client = new_client()
    body = {"model": "ai/smollm2", "input": "Hi"}
    for stream in (False, True):
        service.enqueue(*HELLO)
        result = client.simulate_post("/v1/responses", json={**body, "stream": stream})
        answer = events_of(result)[-1]["response"] if stream else result.json
        assert (answer["status"], answer["store"]) == ("completed", False)
        assert answer["output"][0]["encrypted_content"]
    assert sum("answers are not kept" in record.message for record in caplog.records) == 1
    lost = get(client, "resp_1")
    assert (lost.status_code, "No answers can be kept here" in lost.text) == (404, True)
    refused = client.simulate_post("/v1/responses", json={**body, "background": True})
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "background")


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_the_file_does_not_cost_the_answer(
    post: Post, settings: Settings, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    post()
    with closing(sqlite3.connect(settings.models_path / FILE_NAME)) as connection:
        connection.executescript("DROP TABLE events; DROP TABLE responses;")
    result = post(stream=stream)
    answer = events_of(result)[-1]["response"] if stream else result.json
    assert answer["status"] == "completed"
    assert "resp_2 cannot be kept" in caplog.text
