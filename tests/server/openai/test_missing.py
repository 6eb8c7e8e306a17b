"""Parts of OpenAI's API that are not served say so, in its shape and at once."""

from __future__ import annotations

import falcon.testing
import pytest

from dmr_server.openai.missing import NOT_SERVED

NO_JSON = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize("name", NOT_SERVED)
@pytest.mark.parametrize("root", ["/v1", "/engines/v1", "/engines/llama.cpp/v1"])
def test_what_is_not_served_says_why(client: falcon.testing.TestClient, root: str, name: str) -> None:
    result = client.simulate_post(f"{root}/{name}", body=b"--x\r\nbroken", headers=NO_JSON)
    assert (result.status_code, result.json["error"]["code"]) == (501, "not_implemented")
    assert set(result.json["error"]) == {"message", "type", "param", "code"}
    assert NOT_SERVED[name] in result.json["error"]["message"]
    assert result.headers["x-should-retry"] == "false"
    assert result.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files"),
        ("GET", "/v1/files/file-1/content"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("POST", "/v1/threads/t/runs/r/cancel"),
        ("GET", "/v1/batches/b"),
    ],
)
def test_their_parts_are_not_served_either(client: falcon.testing.TestClient, method: str, path: str) -> None:
    result = client.simulate_request(method, path)
    assert (result.status_code, result.json["error"]["code"]) == (501, "not_implemented")
    assert path in result.json["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/chat/completions/chatcmpl-1", "/v1/chat/completions/chatcmpl-1/messages"])
def test_no_chat_completion_is_stored(client: falcon.testing.TestClient, method: str, path: str) -> None:
    result = client.simulate_request(method, path)
    assert (result.status_code, result.json["error"]["code"]) == (404, "not_found")
    assert "'chatcmpl-1'" in result.json["error"]["message"]


def test_another_backend_is_told_first(client: falcon.testing.TestClient) -> None:
    assert client.simulate_post("/engines/vllm/v1/images/generations", json={}).status_code == 404
