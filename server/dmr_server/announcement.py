"""What a person at the terminal reads when the server is up."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

import msgspec

from dmr.config.reachability import is_loopback

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def base_url(host: str, port: int, scheme: str = "http") -> str:
    """An address that works from this machine, also when the server listens on all of its addresses."""
    host = host.strip("[]")
    try:
        if ipaddress.ip_address(host).is_unspecified:
            host = "::1" if ":" in host else "127.0.0.1"
    except ValueError:
        pass
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def greeting(host: str, port: int, *, scheme: str = "http", has_keys: bool = False) -> str:
    """Where the server listens, and a warning when others can reach it, and use it or listen in."""
    text = f"dmr listens on {base_url(host, port, scheme)}\n"
    if is_loopback(host):
        return text
    if has_keys and scheme == "http":
        text += (
            f"WARNING: {host} can be reached from other machines, and keys and prompts travel there in PLAIN TEXT. "
            "Set MODEL_RUNNER_TLS_ENABLED=true, and DMR_PLAIN=false to listen on that port only.\n"
        )
    if not has_keys:
        text += (
            f"WARNING: {host} can be reached from other machines, and there is NO authentication: whoever can connect "
            "can use, import and delete models. Set DMR_HOST=127.0.0.1 to serve this machine only, or "
            "DMR_KEYS to ask for keys.\n"
        )
    return text


def example(url: str, model: str) -> str:
    """One command that works, ready to be pasted into a shell."""
    body = msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": "Hello!"}]}).decode()
    return f"Try: curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}\n"


def first_model(app: WsgiApp) -> str | None:
    """The name of a model that the app would serve, asked of the app itself."""
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v1/models"}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda *_: None))
    models = msgspec.json.decode(body).get("data") or [{}]
    return models[0].get("id")  # type: ignore[no-any-return]
