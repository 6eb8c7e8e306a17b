"""The same pictures shown to llama-server: what it says, and how sure it is of it, is what this engine says."""

from __future__ import annotations

import base64
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import urllib3
from tiny_models import model_file
from unit.engine.media_bench import MediaBench, picture, place
from unit.engine.native_bench import SETTINGS, TOLERANCE

from dmr.types import TokenLogprob
from dmr.wire import EngineMedia

PEER = Path(__file__).parents[3] / "build" / "peer" / "bin" / "llama-server"
KINDS = ("tiny-random", "tiny-mrope", "tiny-window", "tiny-hybrid")
START_TIMEOUT = 30.0


pytestmark = pytest.mark.skipif(not PEER.exists(), reason="'make bench-peer' builds llama-server")


class Peer:
    """One llama-server on a port of its own, ended by its own id."""

    def __init__(self, weights: Path, projector: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        command = [str(PEER), "-m", str(weights), "--mmproj", str(projector), "--port", str(port), "-c", "1024"]
        command += ["-t", "1", "-np", "1", "--no-warmup", "-fa", "off"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._http = urllib3.PoolManager(retries=False, timeout=30.0)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            assert self._process.poll() is None, "llama-server has ended"
            assert time.monotonic() < deadline, "llama-server is not ready"
            time.sleep(0.05)
        self._marker = self._http.request("GET", f"{self._url}/props").json()["media_marker"]

    def answer(self, text: str, *media: EngineMedia) -> tuple[list[int], dict[int, dict[int, float]]]:
        """The tokens, and log probabilities of the likeliest ones by place; it leaves out parts of characters."""
        for number in range(len(media)):
            text = text.replace(place(number), self._marker)
        files = [base64.b64encode(each.data).decode() for each in media]
        body = {
            "prompt": {"prompt_string": text, "multimodal_data": files},
            "n_predict": 4,
            "temperature": 0.0,
            "n_probs": 5,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
        }
        response = self._http.request("POST", f"{self._url}/completion", json=body)
        assert response.status == 200, response.data
        told = response.json()
        entries = deque(told["completion_probabilities"])
        found = {}
        for number, token in enumerate(told["tokens"]):
            if entries and entries[0]["id"] == token:
                found[number] = {each["id"]: each["logprob"] for each in entries.popleft()["top_logprobs"]}
        return told["tokens"], found

    def stop(self) -> None:
        self._http.clear()
        self._process.terminate()
        self._process.wait(20.0)

    def _is_ready(self) -> bool:
        try:
            return self._http.request("GET", f"{self._url}/health").status == 200
        except urllib3.exceptions.HTTPError:
            return False


Sides = tuple[MediaBench, Peer]


@pytest.fixture(scope="module", params=KINDS)
def sides(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MediaBench, Peer]]:
    folder = tmp_path_factory.mktemp("models")
    bench = MediaBench(request.param, folder, msgspec.structs.replace(SETTINGS, context_size=1024))
    peer = Peer(model_file(request.param, folder), model_file(f"{request.param}-mmproj", folder))
    yield bench, peer
    peer.stop()
    bench.close()


def assert_alike(ours: list[TokenLogprob], tokens: list[int], likeliest: dict[int, dict[int, float]]) -> None:
    """Up to where the answers part: there two tokens were as likely."""
    assert likeliest
    for number, one in enumerate(ours):
        if number in likeliest:
            theirs = likeliest[number]
            shared = [entry for entry in one.top if entry.token in theirs]
            assert len(shared) > 2, f"token {number}"
            assert max(abs(theirs[entry.token] - entry.logprob) for entry in shared) < TOLERANCE, f"token {number}"
        if one.chosen.token != tokens[number]:
            return


@pytest.mark.parametrize(
    ("text", "media"),
    [
        (f"what is{place(0)} this?", (picture("RED"),)),
        (f"a{place(0)}b c d{place(1)}e", (picture("GREEN", 100, 60), picture("BLUE", 60, 140))),
        (f"{'a' * 50}{place(0)}{place(0)}{'b' * 50}", (picture("YELLOW", 200, 56),)),
    ],
)
def test_the_answer_is_the_peers(sides: Sides, text: str, media: tuple[EngineMedia, ...]) -> None:
    bench, peer = sides
    bench.forget()
    request = bench.ask(text, *media)
    bench.run()
    shown = [media[0]] * 2 if text.count(place(0)) == 2 else media
    assert_alike(bench.logprobs(request), *peer.answer(text, *shown))
