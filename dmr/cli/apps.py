"""The programs that `dmr launch` starts, and what each has to be told to use this server.

Only here the names of others' variables and options stand. Nothing of a program's own settings is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

KEY = "sk-dmr"  # several programs insist on one; the server reads it as the name of a client
KEY_VARIABLE = "DMR_API_KEY"  # has the true one, where the server asks for it


@dataclass(frozen=True)
class Target:
    """What a program shall use. `url` is the server's, without a slash at the end; tokens of context, if known."""

    url: str
    model: str
    context: int | None = None
    key: str = KEY


@dataclass(frozen=True)
class Setup:
    """How a program is started: its arguments, environment, and files by the variable that shall name them."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class App:
    """A program on this machine."""

    summary: str
    program: str
    installation: str
    setup: Callable[[Target], Setup]


@dataclass(frozen=True)
class Container:
    """A program in a container with a web page at `port` inside, which is published at `host_port`."""

    summary: str
    image: str
    port: int
    host_port: int
    volume: str  # name:path
    environment: Callable[[Target], dict[str, str]]
    flags: tuple[str, ...] = ()


def _claude(target: Target) -> Setup:
    variables = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        "ANTHROPIC_API_KEY": "",  # a key of the user's own would go before
        "ANTHROPIC_MODEL": target.model,
        # Titles and summaries are asked of a smaller model, which is not here.
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": target.model,
        "CLAUDE_CODE_SUBAGENT_MODEL": target.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return Setup(("--model", target.model), variables)


def _codex(target: Target) -> Setup:
    provider = {"name": "dmr", "base_url": f"{target.url}/v1", "wire_api": "responses"}
    if target.key != KEY:
        provider["env_key"] = KEY_VARIABLE
    settings: dict[str, object] = {"model": target.model, "model_provider": "dmr"}
    settings |= {f"model_providers.dmr.{name}": value for name, value in provider.items()}
    if target.context:
        settings["model_context_window"] = target.context
    # Values are TOML, of which these are also JSON.
    pairs = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    environment = {KEY_VARIABLE: target.key} if target.key != KEY else {}
    return Setup(tuple(argument for pair in pairs for argument in ("-c", pair)), environment)


def _opencode(target: Target) -> Setup:
    limits = {"limit": {"context": target.context, "output": target.context // 4}} if target.context else {}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "dmr",
        "options": {"baseURL": f"{target.url}/v1", "apiKey": target.key},
        "models": {target.model: {"name": target.model, **limits}},
    }
    settings = {"model": f"dmr/{target.model}", "small_model": f"dmr/{target.model}", "provider": {"dmr": provider}}
    return Setup((), {"OPENCODE_CONFIG_CONTENT": json.dumps(settings)})


def _openclaw(target: Target) -> Setup:
    model = {"id": target.model, "name": target.model, **({"contextWindow": target.context} if target.context else {})}
    provider = {"baseUrl": f"{target.url}/v1", "apiKey": target.key, "api": "openai-completions", "models": [model]}
    settings = {
        "models": {"mode": "merge", "providers": {"dmr": provider}},
        "agents": {"defaults": {"model": {"primary": f"dmr/{target.model}"}}},
        "gateway": {"mode": "local"},
    }
    return Setup((), {}, {"OPENCLAW_CONFIG_PATH": json.dumps(settings, indent=2) + "\n"})


def _aider(target: Target) -> Setup:
    variables = {"OPENAI_API_BASE": f"{target.url}/v1", "OPENAI_API_KEY": target.key}
    return Setup(("--model", f"openai/{target.model}"), variables)


def _goose(target: Target) -> Setup:
    return Setup(
        (),
        {
            "GOOSE_PROVIDER": "openai",
            "GOOSE_MODEL": target.model,
            "OPENAI_HOST": target.url,
            "OPENAI_BASE_PATH": "v1/chat/completions",
            "OPENAI_API_KEY": target.key,
        },
    )


def _openwebui(target: Target) -> dict[str, str]:
    variables = {"OPENAI_API_BASE_URL": f"{target.url}/v1", "OPENAI_API_KEY": target.key, "ENABLE_OLLAMA_API": "false"}
    return {**variables, "DEFAULT_MODELS": target.model}


def _anythingllm(target: Target) -> dict[str, str]:
    return {
        "STORAGE_DIR": "/app/server/storage",
        "LLM_PROVIDER": "generic-openai",
        "GENERIC_OPEN_AI_BASE_PATH": f"{target.url}/v1",
        "GENERIC_OPEN_AI_API_KEY": target.key,
        "GENERIC_OPEN_AI_MODEL_PREF": target.model,
        "GENERIC_OPEN_AI_MODEL_TOKEN_LIMIT": str(target.context or 8192),
    }


APPS: dict[str, App] = {
    "aider": App("Aider, pair programming", "aider", "pip install aider-install && aider-install", _aider),
    "claude": App("Claude Code", "claude", "npm install -g @anthropic-ai/claude-code", _claude),
    "codex": App("Codex", "codex", "npm install -g @openai/codex", _codex),
    "goose": App("Goose", "goose", "see goose's own manual", _goose),
    "openclaw": App("OpenClaw", "openclaw", "npm install -g openclaw", _openclaw),
    "opencode": App("OpenCode", "opencode", "npm install -g opencode-ai", _opencode),
}
CONTAINERS: dict[str, Container] = {
    "anythingllm": Container(
        "AnythingLLM, in a container",
        "mintplexlabs/anythingllm:latest",
        port=3001,
        host_port=3001,
        volume="anythingllm:/app/server/storage",
        environment=_anythingllm,
        flags=("--cap-add", "SYS_ADMIN"),
    ),
    "openwebui": Container(
        "Open WebUI, in a container",
        "ghcr.io/open-webui/open-webui:main",
        port=8080,
        host_port=3000,
        volume="open-webui:/app/backend/data",
        environment=_openwebui,
    ),
}
CONTAINER_PROGRAM = "docker"
CONTAINER_GATEWAY = "host.docker.internal"  # this machine, as containers see it
