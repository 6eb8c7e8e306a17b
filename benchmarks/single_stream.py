"""One user on an idle machine: dmr over HTTP beside llama-bench, interleaved, medians and their ratio.

    python benchmarks/single_stream.py --llama-bench PATH --gguf FILE --model NAME [--url URL] [--pairs 5]

Needs a running server that has the model, and a `llama-bench` of the same llama.cpp commit. llama-bench reports prefill
of 512 tokens (pp512) and decode of 128 (tg128); the server is asked for the same: a prompt of 512 tokens and one
new token, then a short prompt and 128 new tokens, measured at the client from the first token to the last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import time
from typing import Any

import urllib3

PREFILL_TOKENS = 512
DECODE_TOKENS = 128


def llama_bench(binary: str, gguf: str, threads: int) -> tuple[float, float]:
    """(prefill, decode) in tokens per second."""
    command = [binary, "-m", gguf, "-t", str(threads), "-p", str(PREFILL_TOKENS), "-n", str(DECODE_TOKENS)]
    output = subprocess.run([*command, "-r", "1", "-o", "json"], capture_output=True, check=True, text=True).stdout
    rates = {row["n_gen"]: row["avg_ts"] for row in json.loads(output)}
    return rates[0], rates[DECODE_TOKENS]


def completion(http: urllib3.PoolManager, url: str, body: dict[str, Any]) -> tuple[list[float], dict[str, Any]]:
    """Arrival times of the chunks in seconds after the request, and the usage."""
    began = time.perf_counter()
    body = {**body, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True, "temperature": 0}
    response = http.request("POST", url + "/v1/completions", json=body, preload_content=False)
    times: list[float] = []
    usage: dict[str, Any] = {}
    for line in response:
        if line.startswith(b"data: {"):
            times.append(time.perf_counter() - began)
            usage = json.loads(line[6:]).get("usage") or usage
    response.release_conn()
    return times, usage


def dmr(http: urllib3.PoolManager, url: str, model: str, seed: int) -> tuple[float, float]:
    """(prefill, decode) in tokens per second, as a client sees them."""
    tokens = random.Random(seed).choices(range(1000, 20000), k=PREFILL_TOKENS)
    times, usage = completion(http, url, {"model": model, "prompt": tokens, "max_tokens": 1})
    prefill = usage["prompt_tokens"] / times[0]
    times, usage = completion(http, url, {"model": model, "prompt": tokens[:2], "max_tokens": DECODE_TOKENS + 1})
    decode = (usage["completion_tokens"] - 1) / (times[-3] - times[0])
    return prefill, decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:12434")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    http = urllib3.PoolManager()
    completion(http, options.url, {"model": options.model, "prompt": "warm", "max_tokens": 1})
    peer, ours = [], []
    for pair in range(options.pairs):
        peer.append(llama_bench(options.llama_bench, options.gguf, options.threads))
        ours.append(dmr(http, options.url, options.model, pair))
    for column, name in enumerate(("prefill", "decode")):
        a = statistics.median(row[column] for row in peer)
        b = statistics.median(row[column] for row in ours)
        print(f"{name:8} llama-bench {a:7.1f} tok/s   dmr {b:7.1f} tok/s   ratio {b / a:.2f}")


if __name__ == "__main__":
    main()
