"""Pictures to vectors, and vectors into a context: what is right, and all that is refused instead of aborting."""

from __future__ import annotations

import struct
import threading
import time
import wave
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from tiny_models import SCRIPT_COLOURS, model_file, write_costly_projector

from dmr import _core


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> _core.Model:
    return _core.Model([str(model_file("tiny-script", folder))])


@pytest.fixture(scope="module")
def projector(model: _core.Model, folder: Path) -> _core.Projector:
    return _core.Projector(str(model_file("tiny-script-mmproj", folder)), model)


def pixels(colour: str, width: int = 56, height: int = 56) -> bytes:
    number = SCRIPT_COLOURS.index(colour)
    return bytes(255 if number & bit else 0 for bit in (4, 2, 1)) * (width * height)


def piece_of(projector: _core.Projector, colour: str = "RED") -> _core.MediaPiece:
    (piece,) = projector.prepare_image(56, 56, pixels(colour))
    return piece


def make_context(model: _core.Model) -> _core.Context:
    options = _core.ContextOptions()
    options.context_size = 512
    options.max_batch = 64
    options.max_sequences = 2
    return _core.Context(model, options)


def test_what_it_can(projector: _core.Projector) -> None:
    assert (projector.sees, projector.hears, projector.uses_mrope, projector.sample_rate) == (True, False, False, -1)


@pytest.mark.parametrize("size", [(1, 1), (56, 56), (4000, 4), (3, 700)])
def test_a_picture_of_any_size_has_its_places(projector: _core.Projector, size: tuple[int, int]) -> None:
    (piece,) = projector.prepare_image(*size, pixels("BLUE", *size))
    assert (piece.tokens, piece.num_places, piece.num_positions, piece.is_causal) == ([], 4, 4, True)
    vectors = projector.encode(piece)
    assert (vectors.num_places, vectors.width, vectors.num_bytes) == (4, 128, 4 * 128 * 4)
    assert vectors.values().shape == (4, 128)
    assert np.isfinite(vectors.values()).all()


def test_colours_have_vectors_of_their_own(projector: _core.Projector) -> None:
    rows = {colour: projector.encode(piece_of(projector, colour)).values() for colour in SCRIPT_COLOURS}
    assert len({row.tobytes() for row in rows.values()}) == len(SCRIPT_COLOURS)
    assert np.array_equal(rows["RED"], projector.encode(piece_of(projector)).values())


@pytest.mark.parametrize(
    ("width", "height", "count"), [(0, 4, 0), (4, 0, 0), (4, 4, 47), (4, 4, 49), (1 << 31, 1 << 31, 3)]
)
def test_pixels_that_are_not_those_of_the_size_are_refused(
    projector: _core.Projector, width: int, height: int, count: int
) -> None:
    with pytest.raises(ValueError, match="picture"):
        projector.prepare_image(width, height, b"\0" * count)


def wave_file() -> bytes:
    target = BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(struct.pack("<160h", *range(160)))
    return target.getvalue()


def test_a_projector_that_only_sees_hears_nothing(projector: _core.Projector) -> None:
    with pytest.raises(_core.MediaError, match="hears no sounds"):
        projector.prepare_sound(wave_file(), 10)


def test_what_was_aborted_is_cancelled_and_the_next_is_not(projector: _core.Projector) -> None:
    piece = piece_of(projector)
    projector.abort(projector.next_encode)
    with pytest.raises(_core.Cancelled):
        projector.encode(piece)
    assert projector.encode(piece).num_places == 4


def test_an_encode_that_runs_is_stopped_before_its_end(model: _core.Model, tmp_path: Path) -> None:
    write_costly_projector(tmp_path / "costly.gguf", text_width=128, blocks=100, width=192, side=168)
    projector = _core.Projector(str(tmp_path / "costly.gguf"), model, num_threads=1)
    piece = piece_of(projector)
    began = time.thread_time()
    projector.encode(piece)
    whole = time.thread_time() - began

    def abort() -> None:
        while projector.next_encode < 2:  # it has not begun
            time.sleep(0.0005)
        projector.abort(1)

    stopper = threading.Thread(target=abort)
    stopper.start()
    began = time.thread_time()
    with pytest.raises(_core.Cancelled):
        projector.encode(piece)
    computed = time.thread_time() - began
    stopper.join()
    assert computed < whole / 2
    assert projector.encode(piece).num_places == 144


def test_others_may_compute_between_two_slices(model: _core.Model, tmp_path: Path) -> None:
    write_costly_projector(tmp_path / "costly.gguf", text_width=128, blocks=100, width=192, side=168)
    projector = _core.Projector(str(tmp_path / "costly.gguf"), model, num_threads=1)
    piece, calls = piece_of(projector), list[int]()
    plain = projector.encode(piece)
    sliced = projector.encode(piece, lambda: calls.append(threading.get_ident()))
    assert len(calls) >= 2
    assert set(calls) == {threading.get_ident()}
    assert np.array_equal(sliced.values(), plain.values())

    def fail() -> None:
        raise KeyError("between")

    with pytest.raises(KeyError, match="between"):
        projector.encode(piece, fail)
    with pytest.raises(_core.Cancelled):
        projector.encode(piece, lambda: projector.abort(projector.next_encode - 1))
    assert np.array_equal(projector.encode(piece).values(), plain.values())


def test_text_and_emptied_pieces_cannot_be_encoded(projector: _core.Projector) -> None:
    with pytest.raises(_core.DecodeError):
        projector.encode(piece_of(projector).without_content())


def test_files_that_are_no_projector(model: _core.Model, folder: Path, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.gguf"
    nonsense.write_bytes(b"GGUF" + b"\0" * 100)
    for path in (nonsense, tmp_path / "missing.gguf", model_file("tiny-script", folder)):
        with pytest.raises(_core.LoadError, match="projector"):
            _core.Projector(str(path), model)


def test_a_projector_of_another_model(folder: Path) -> None:
    other = _core.Model([str(model_file("tiny-window", folder))])
    with pytest.raises(_core.LoadError, match="n_embd"):
        _core.Projector(str(model_file("tiny-script-mmproj", folder)), other)


def test_a_context_names_what_it_is_shown(model: _core.Model, projector: _core.Projector) -> None:
    context, piece = make_context(model), piece_of(projector, "GREEN")
    vectors = projector.encode(piece)
    before = model.tokenize("<|im_start|>user\n", False, True)
    after = model.tokenize("<|im_end|>\n<|im_start|>assistant\n", False, True)
    batch = _core.Batch()
    batch.add(1, before, 0, False, False)
    assert context.decode(batch) == _core.DecodeStatus.DONE
    for begin in (0, 2):  # in two parts
        status = context.decode_media(1, len(before), piece.without_content(), vectors, begin, begin + 2)
        assert status == _core.DecodeStatus.DONE
    batch = _core.Batch()
    batch.add(1, after, len(before) + 4)
    assert context.decode(batch) == _core.DecodeStatus.DONE
    assert model.piece(int(context.logits(len(after) - 1).argmax())) == b"GREEN"
    assert context.position_max(1) == len(before) + 4 + len(after) - 1


@pytest.mark.parametrize(
    ("sequence", "position", "begin", "end"),
    [(2, 0, 0, 4), (-1, 0, 0, 4), (0, 1, 0, 4), (0, -1, 0, 4), (0, 0, 0, 0), (0, 0, 2, 1), (0, 0, -1, 2), (0, 0, 0, 5)],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    model: _core.Model, projector: _core.Projector, sequence: int, position: int, begin: int, end: int
) -> None:
    context, piece = make_context(model), piece_of(projector)
    vectors = projector.encode(piece)
    with pytest.raises(ValueError, match=r".+"):
        context.decode_media(sequence, position, piece, vectors, begin, end)
    assert context.position_max(0) == -1
    assert context.decode_media(0, 0, piece, vectors, 0, 4) == _core.DecodeStatus.DONE


def test_vectors_of_another_model_are_refused(model: _core.Model, folder: Path, projector: _core.Projector) -> None:
    other = _core.Model([str(model_file("tiny-window", folder))])
    piece = piece_of(projector)
    with pytest.raises(ValueError, match="width"):
        make_context(other).decode_media(0, 0, piece, projector.encode(piece), 0, 4)
