"""A chat template of a model's file or of a request: nobody has looked at it, so it is rendered somewhere else."""

from __future__ import annotations

import hashlib

from dmr import _core
from dmr.chat.template_messages import Definition, from_request
from dmr.chat.template_processes import TemplateProcesses, processes


class SandboxedTemplate:
    """As `_core.ChatTemplate`, in another process. Immutable; any thread."""

    def __init__(
        self, source: str, bos: str, eos: str, adds_bos: bool, processes: TemplateProcesses = processes
    ) -> None:
        """Raises TemplateError, and InvalidRequest, Unavailable as `TemplateProcesses.ask`."""
        self._processes = processes
        self._definition = Definition(source, bos, eos, adds_bos)
        self._key = hashlib.sha256(repr(self._definition).encode("utf-8", "surrogatepass")).digest()
        self.capabilities = processes.ask(self._key, self._definition, None).capabilities

    def render(self, request: _core.ChatRequest) -> _core.ChatPrompt:
        """Raises also GrammarError, ValueError."""
        told = self._processes.ask(self._key, self._definition, from_request(request))
        assert told.state is not None
        return _core.ChatPrompt.from_state(told.state)
