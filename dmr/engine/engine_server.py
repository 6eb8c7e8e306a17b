"""An engine's connections: requests in, messages out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec

from dmr.engine.channel import Channel
from dmr.engine.embed_intake import EmbedIntake
from dmr.engine.embedder import Embedder
from dmr.engine.engine import Request
from dmr.engine.intake import Intake
from dmr.engine.media_encoder import MediaEncoder
from dmr.engine.media_reader import Medium
from dmr.engine.native_options import num_usable_cores
from dmr.engine.outbox import Outbox
from dmr.engine.step_loop import Deliveries, StepLoop
from dmr.errors import DmrError, InternalError, InvalidRequest, Overloaded, Unsupported
from dmr.types import Statistics
from dmr.wire import (
    EngineDetokenize,
    EngineEmbed,
    EngineMeasure,
    EngineMedia,
    EngineOpenChannel,
    EngineQuery,
    EngineReply,
    EngineRequest,
    EngineRerank,
    EngineStarted,
    EngineStatistics,
    EngineTokenize,
    EngineTokens,
    WireError,
    engine_move_decoder,
    engine_query_decoder,
    pack,
    read_frame,
    until_closed,
)

MAX_QUICK_LENGTH = 2048  # characters or tokens of a request that the event loop itself prepares, in half a millisecond
MAX_QUICK_CHOICES = 4

logger = logging.getLogger("dmr.engine")


class Embedding(NamedTuple):
    """What turns texts into vectors or scores."""

    intake: EmbedIntake
    embedder: Embedder


class Server:
    """Connections in, messages out. Lives on the event loop; step loop and embedder have threads of their own."""

    def __init__(
        self,
        intake: Intake,
        steps: StepLoop | None,
        embedding: Embedding | None = None,
        refusal: str = "This model cannot generate text.",
        media: MediaEncoder | None = None,
        media_timeout: float = 0.0,
    ) -> None:
        """`steps` None: what asks for text is refused with `refusal`. `media` None: so are images and sounds.

        `media_timeout`: seconds that a request may wait for its images and sounds; 0 = any time.
        """
        self._media = media
        self._media_timeout = media_timeout
        self._intake = intake
        self._steps = steps
        self._embedding = embedding
        self._refusal = refusal
        self._executor = ThreadPoolExecutor(max_workers=max(2, num_usable_cores()), thread_name_prefix="intake")
        self._outboxes: dict[Request, Outbox] = {}
        self._channels: dict[str, Channel] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, then messages until it is done or the other side leaves."""
        with contextlib.suppress(asyncio.CancelledError):  # at the process's end; asyncio would log each as a defect
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            message = await read_frame(reader, engine_query_decoder)
            if message is not None:
                await self._answer(message, reader, writer)
        except DmrError as error:
            writer.write(pack(WireError.of(error)))
        except Exception:
            logger.exception("a request failed")
            writer.write(pack(WireError.of(InternalError("The engine failed."))))
        finally:
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()

    async def _answer(self, message: EngineQuery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(message, EngineTokenize):
            writer.write(pack(await loop.run_in_executor(self._executor, self._tokenize, message)))
        elif isinstance(message, EngineDetokenize):
            writer.write(pack(await loop.run_in_executor(self._executor, self._intake.detokenize, message)))
        elif isinstance(message, EngineMeasure):
            writer.write(pack(EngineStatistics(self._statistics())))
        elif isinstance(message, EngineRequest):
            await self._generate(message, reader, writer)
        elif isinstance(message, EngineOpenChannel):
            await self._serve_channel(message.name, reader, writer)
        else:
            await self._embed(message, reader, writer)

    async def _generate(
        self, message: EngineRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._steps is None:
            raise Unsupported(self._refusal)
        media = await self._encoded(message.media, reader) if message.media else ()
        if media is None:
            return
        if _is_quickly_prepared(message):
            request = self._intake.prepare(message, media)
        else:
            loop = asyncio.get_running_loop()
            request = await loop.run_in_executor(self._executor, self._intake.prepare, message, media)
        if writer.is_closing():  # it has left meanwhile
            return
        outbox = self._outboxes[request] = Outbox(writer, is_whole=message.is_whole)
        try:
            self._steps.submit(request)
            outbox.open(EngineStarted(request.num_prompt_tokens, request.num_dropped_tokens))
            if not await _first_of(outbox.is_sent.wait(), self._until_left(outbox, reader)):
                self._steps.abort(request)
        finally:
            outbox.close()
            del self._outboxes[request]

    async def _until_left(self, outbox: Outbox, reader: asyncio.StreamReader) -> None:
        """Wait for the other side to leave; meanwhile it may want the answer moved. Anything else counts as leaving."""
        try:
            wish = await read_frame(reader, engine_move_decoder)
        except InternalError:
            return
        if wish is None:
            return
        channel = self._channels.get(wish.channel)
        if channel is not None:
            outbox.move(channel, wish.number)
        await until_closed(reader)

    async def _serve_channel(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if name in self._channels:
            raise InvalidRequest("There is such a channel already.")
        channel = self._channels[name] = Channel(writer)
        try:
            channel.greet()
            await until_closed(reader)
        finally:
            channel.close()
            del self._channels[name]

    async def _encoded(self, media: tuple[EngineMedia, ...], reader: asyncio.StreamReader) -> tuple[Medium, ...] | None:
        """None: the other side has left meanwhile."""
        encoder = self._encoder_for(media)
        loop = asyncio.get_running_loop()
        order = await loop.run_in_executor(self._executor, encoder.submit, media)
        encoded: asyncio.Future[tuple[Medium, ...] | DmrError] = asyncio.wrap_future(order.result)
        try:
            is_done = await _first_of(encoded, until_closed(reader), self._media_timeout)
        finally:
            encoder.abort(order)
        if is_done is None:
            raise Overloaded(f"The images and sounds of this request have waited for {self._media_timeout:g} seconds.")
        if not is_done:
            return None
        answer = order.result.result()
        if isinstance(answer, DmrError):
            raise answer
        return answer

    def _encoder_for(self, media: tuple[EngineMedia, ...]) -> MediaEncoder:
        if self._media is None:
            verb = "sees no images" if media[0].kind == "image" else "hears no sounds"
            raise Unsupported(f"This model {verb}.", param=media[0].kind)
        return self._media

    def _statistics(self) -> Statistics | None:
        if self._steps is None:
            return None
        told = self._steps.statistics()
        if self._media is None:
            return told
        counts = self._media.counts()
        return msgspec.structs.replace(
            told,
            num_encoded_media=counts.num_encoded,
            num_media_hits=counts.num_hits,
            media_seconds=counts.seconds,
            num_waiting_media=counts.num_waiting,
            media_cache_bytes=counts.cache_bytes,
            max_media_cache_bytes=counts.max_cache_bytes,
        )

    def _tokenize(self, message: EngineTokenize) -> EngineTokens:
        media = self._encoder_for(message.media).read(message.media) if message.media else ()
        return self._intake.tokenize(message, media)

    async def _embed(
        self, message: EngineEmbed | EngineRerank, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._embedding is None:
            raise Unsupported("This model makes no vectors of texts.")
        intake, embedder = self._embedding
        job = await asyncio.get_running_loop().run_in_executor(self._executor, intake.prepare, message)
        embedder.submit(job)
        reply: asyncio.Future[EngineReply] = asyncio.wrap_future(job.reply)
        if await _first_of(reply, until_closed(reader)):
            writer.write(pack(job.reply.result()))
        else:
            embedder.abort(job)

    def publish(self, deliveries: Deliveries) -> None:
        """Hand out a step's messages, one write for each connection. Any thread; never waits."""
        for request, messages in deliveries.items():
            outbox = self._outboxes.get(request)
            if outbox is None:
                continue
            try:
                outbox.put(messages)
            except Exception:
                logger.exception("what a step gave could not be told")
                outbox.put([WireError.of(InternalError("The engine failed."))])
        for channel in list(self._channels.values()):
            channel.flush()


def _is_quickly_prepared(message: EngineRequest) -> bool:
    """Whether it takes less time than to hand it to another thread and back (65 us against 700, SmolLM2)."""
    texts = (*message.prompts, *message.literals, message.suffix or "")
    is_plain = message.grammar is None and not message.media
    is_small = len(message.prompts) * message.num_choices <= MAX_QUICK_CHOICES
    return is_plain and is_small and sum(map(len, texts)) <= MAX_QUICK_LENGTH


async def _first_of(done: Awaitable[object], left: Coroutine[Any, Any, None], timeout: float = 0.0) -> bool | None:
    """Wait until it is done; False: the other side has left before. None: neither within `timeout` seconds, if any."""
    finished, gone = asyncio.ensure_future(done), asyncio.ensure_future(left)
    await asyncio.wait({finished, gone}, timeout=timeout or None, return_when=asyncio.FIRST_COMPLETED)
    is_done, has_left = finished.done(), gone.done()
    finished.cancel()
    gone.cancel()
    return True if is_done else False if has_left else None
