"""What became of a request: was it accepted, and is its answer whole?"""

from __future__ import annotations

from typing import NamedTuple, Union

import msgspec

from dmr.bench.http_response import NotHttp, ResponseReader

from .client import NOT_OPENED, Exchange

ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"
DONE = b"data: [DONE]"
LAST_EVENTS = 4  # of a stream, among which its finish reason and its usage are


class End(NamedTuple):
    how: str
    num_tokens: int = 0  # of an accepted answer
    reason: str = ""  # why it was refused or has failed


class _Choice(msgspec.Struct):
    finish_reason: Union[str, None] = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Union[_Usage, None] = None


_decoder = msgspec.json.Decoder(_Answer)


def judge(exchange: Exchange, num_tokens: int) -> End:
    """`num_tokens`: that were asked for, and are in the answer if it is whole.

    A connection that cannot be opened is a refusal too, the cheapest one; an answer that says no more than that there
    is no room is none without the time after which to come again.
    """
    if exchange.error == NOT_OPENED:
        return End(REFUSED, reason=NOT_OPENED)
    if exchange.error:
        return End(FAILED, reason=exchange.error)
    reader = ResponseReader()
    try:
        body = reader.feed(bytes(exchange.data))
        reader.end()
    except NotHttp:
        return End(FAILED, reason="no HTTP")
    if reader.status in (429, 503):
        has_time = b"\r\nretry-after:" in bytes(exchange.data).partition(b"\r\n\r\n")[0].lower()
        return End(REFUSED if has_time else FAILED, reason=f"{reader.status}{'' if has_time else ' without a time'}")
    if reader.status != 200:
        return End(FAILED, reason=str(reader.status) if reader.status else "closed without an answer")
    return _judge_body(body, num_tokens) if reader.is_complete else End(FAILED, reason="an answer that breaks off")


def _judge_body(body: bytes, num_tokens: int) -> End:
    if body.startswith(b"{"):
        parts = [body]
    else:
        lines = body.rstrip().split(b"\n\n")
        if lines[-1] != DONE:
            return End(FAILED, reason="a stream without its end")
        parts = [line[6:] for line in lines[-LAST_EVENTS:-1] if line.startswith(b"data: ")]
    try:
        answers = [_decoder.decode(part) for part in parts]
    except msgspec.DecodeError:
        return End(FAILED, reason="an answer that cannot be read")
    has_reason = any(choice.finish_reason for answer in answers for choice in answer.choices)
    counted = max((answer.usage.completion_tokens for answer in answers if answer.usage is not None), default=0)
    if not has_reason or counted != num_tokens:
        return End(FAILED, reason=f"{counted} of {num_tokens} tokens{'' if has_reason else ', without a reason'}")
    return End(ACCEPTED, counted)
