"""Readers of annotations and failures."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import nats.errors
from nats.aio.msg import Msg

from groundling._consumer import Consumer
from groundling.errors import ReadError, UndecodableMessageError
from groundling.records import Annotation, Failure

log = logging.getLogger("groundling")

Record = TypeVar("Record", bound=Annotation | Failure)


class Reader(Generic[Record]):
    """An asynchronous iterator over the annotations or failures of a dataset.

    Ids that were read before are skipped; of a durable reader, those that were acknowledged before. Use it as a context
    manager, so that messages that are not acknowledged are handed back when the loop ends early:

        async with client.annotations("holiday", durable="my-index") as reader:
            async for annotation in reader:
                ...
    """

    def __init__(
        self,
        consumer: Consumer,
        decode: Callable[[Msg], tuple[str, Record]],
        *,
        durable: bool,
        follow: bool,
        auto_ack: bool,
        timeout: float | None,
        ack_wait: float,
        remember_ids: int | None,
    ) -> None:
        self._consumer = consumer
        self._decode = decode
        self._durable = durable
        self._follow = follow
        self._auto_ack = auto_ack
        self._timeout = timeout
        self._ack_wait = ack_wait
        self._seen = _Seen(remember_ids)
        # Taken and not acknowledged, by sequence.
        self._held: dict[int, tuple[Msg, str]] = {}
        self._current: int | None = None
        self._progress: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Reader[Record]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Reader[Record]:
        return self

    @property
    def remaining(self) -> int:
        """The number of messages after the last delivered one, at the time of its delivery.

        In a cluster, the server that delivers may know of fewer than there are. With `follow=False`, only the end of
        the iteration says that there are no more.
        """
        return self._consumer.remaining + len(self._consumer.buffer)

    async def __anext__(self) -> Record:
        """The next record. A durable reader with `auto_ack` first acknowledges the one before.

        Raises `ReadTimeoutError`, `UndecodableMessageError` and the errors of the connection.
        """
        if self._closed:
            raise StopAsyncIteration
        if self._auto_ack and self._current is not None:
            await self._ack(self._current)
        self._current = None
        if self._durable and self._progress is None:
            self._progress = asyncio.ensure_future(_report_progress(weakref.ref(self), self._ack_wait / 3))
        while True:
            message = await self._consumer.next(timeout=self._timeout, follow=self._follow, held=len(self._held))
            if message is None:
                raise StopAsyncIteration
            sequence = message.metadata.sequence.stream
            if sequence in self._held:
                # Delivered again while the caller works on it.
                self._held[sequence] = (message, self._held[sequence][1])
                continue
            try:
                record_id, record = self._decode(message)
            except Exception as error:
                if self._durable:
                    # Reported once: delivered again, it would be as undecodable, for ever.
                    await _send(message.term(), "that a message cannot be decoded")
                raise UndecodableMessageError(message.subject, sequence) from error
            if record_id and record_id in self._seen:
                if self._durable:
                    await _acknowledge(message)
                continue
            if self._durable:
                self._held[sequence] = (message, record_id)
                self._current = sequence
            else:
                self._seen.add(record_id)
            return record

    async def ack(self, record: Record) -> None:
        """Acknowledges a record of a durable reader, so that it is not delivered again.

        Raises `ReadError` if the reader is not durable or does not hold the record.
        """
        if not self._durable:
            raise ReadError("only a durable reader acknowledges")
        if record.sequence not in self._held:
            raise ReadError(f"message {record.sequence} is not held by this reader: it was acknowledged before")
        await self._ack(record.sequence)

    async def aclose(self) -> None:
        """Ends the reader. A durable reader hands back what was not acknowledged, for the next one with its name."""
        if self._closed:
            return
        self._closed = True
        if self._progress is not None:
            self._progress.cancel()
        for message in self._unacknowledged() if self._durable else []:
            try:
                await message.nak()
            except (nats.errors.Error, ConnectionError) as error:  # It is delivered again after `ack_wait`.
                log.debug("a message was not handed back: %s", error)
        self._held.clear()
        await self._consumer.close()

    async def _ack(self, sequence: int) -> None:
        held = self._held.pop(sequence, None)
        if held is None:
            return
        message, record_id = held
        await _acknowledge(message)
        self._seen.add(record_id)

    def _unacknowledged(self) -> list[Msg]:
        return [*(held for held, _ in self._held.values()), *self._consumer.buffer]


async def _acknowledge(message: Msg) -> None:
    # Otherwise it is delivered again, and skipped then.
    await _send(message.ack(), "an acknowledgement")


async def _send(response: Awaitable[None], what: str) -> None:
    try:
        await response
    except (nats.errors.Error, ConnectionError) as error:
        log.debug("%s was not sent: %s", what, error)


async def _report_progress(reader: weakref.ref[Reader[Record]], interval: float) -> None:
    """Keeps the server from delivering held messages again. Ends with the reader, so that messages of a reader that
    nobody uses any more are delivered again."""
    while True:
        await asyncio.sleep(interval)
        alive = reader()
        if alive is None:
            return
        for message in alive._unacknowledged():
            try:
                await message.in_progress()
            except (nats.errors.Error, ConnectionError) as error:
                log.debug("progress was not reported: %s", error)
        del alive


class _Seen:
    """The last ids that were read."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        # The values are unused; dictionaries keep their order.
        self._digests: dict[bytes, None] = {}

    def add(self, record_id: str) -> None:
        if self._limit == 0 or not record_id:
            return
        self._digests[_digest(record_id)] = None
        if self._limit is not None and len(self._digests) > self._limit:
            del self._digests[next(iter(self._digests))]

    def __contains__(self, record_id: str) -> bool:
        return _digest(record_id) in self._digests


def _digest(record_id: str) -> bytes:
    return hashlib.sha256(record_id.encode()).digest()[:16]
