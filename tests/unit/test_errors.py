from __future__ import annotations

from collections.abc import Iterator

import pytest

import dmr.client
from dmr import errors
from dmr.errors import (
    ContextLengthExceeded,
    DmrError,
    EngineCrashed,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Unavailable,
    error_from_code,
)


def kinds(root: type[DmrError] = DmrError) -> Iterator[type[DmrError]]:
    yield root
    for child in root.__subclasses__():
        yield from kinds(child)


@pytest.mark.parametrize("kind", sorted(set(kinds()) - {DmrError}, key=lambda kind: kind.__name__))
def test_each_kind_comes_back_from_its_code(kind: type[DmrError]) -> None:
    error = error_from_code(kind.code, "words", "field", 2.5)
    assert type(error) is kind
    assert (error.message, str(error), error.param, error.retry_after) == ("words", "words", "field", 2.5)


def test_no_two_kinds_share_a_code() -> None:
    codes = [kind.code for kind in kinds() if kind is not DmrError]
    assert len(set(codes)) == len(codes)


def test_a_code_that_nobody_knows_is_a_defect_of_ours() -> None:
    assert type(error_from_code("gremlins", "words", None, None)) is InternalError


def test_a_crash_that_is_reported_is_not_one_that_may_be_tried_again() -> None:
    assert issubclass(dmr.client.EngineUnreachable, EngineCrashed)
    assert type(error_from_code("engine_crashed", "words", None, None)) is EngineCrashed


def test_messages_tell_what_to_do() -> None:
    error = ContextLengthExceeded(9000, 8192)
    assert "9000" in error.message
    assert "8192" in error.message
    assert (error.param, error.retry_after) == ("messages", None)
    assert isinstance(error, InvalidRequest)
    missing = ModelNotFound("ai/x")
    assert "'ai/x'" in missing.message
    assert missing.param == "model"
    assert Unavailable("later").retry_after == 1.0
    assert all(kind.__doc__ for kind in vars(errors).values() if isinstance(kind, type))


def test_numbers_cross_process_borders_by_their_names() -> None:
    error = ContextLengthExceeded(9000, 8192)
    assert error.details == {"num_prompt_tokens": 9000, "context_size": 8192}
    copy = error_from_code(error.code, error.message, error.param, None, {**error.details, "message": 5})
    assert isinstance(copy, ContextLengthExceeded)
    assert (copy.num_prompt_tokens, copy.context_size, copy.message) == (9000, 8192, error.message)
    assert error_from_code(error.code, "words", None, None).details == {}
    assert error_from_code("conflict", "words", None, None, {"context_size": 5}).details == {}
