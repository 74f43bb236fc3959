"""Pull consumers: messages of a stream, in order, across lost connections."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from groundling._connection import (
    Connection,
    ConsumerNotFoundError,
    MessageNotFoundError,
    NoRespondersError,
    seconds_left,
)
from groundling.errors import (
    PermissionDeniedError,
    ReaderConflictError,
    ReadError,
    ReadTimeoutError,
    RequestTimeoutError,
)

log = logging.getLogger("groundling")

#: Where a reader starts: at the first message, after the last one, at a sequence, or at a time.
Start = Literal["first", "new"] | int | datetime

_REQUEST_EXPIRES = 30.0
_HEARTBEAT = 2.0
#: A request without a message or heartbeat for this long is lost. Servers send one each `_HEARTBEAT`.
_SILENCE = 3 * _HEARTBEAT
#: The server removes a consumer without a name of the user's after this time without requests.
_INACTIVE_THRESHOLD = 300.0
#: How often a reader that ends at the last message looks whether there is another one.
_END_POLL = 0.2
_RETRY_DELAY = 0.5
#: A consumer that sends nothing for this long, although the stream has more, is created again.
_STALLED = 5.0
_NANOS = 1_000_000_000


@dataclass(frozen=True)
class Selection:
    """What a consumer reads."""

    stream: str
    #: Subjects, which may contain wildcards.
    subjects: Sequence[str]
    start: Start


class Consumer:
    """The messages of a selection.

    With a durable name, the server keeps the position: messages are to be acknowledged, and processes with the same
    name share them. Without one, each message is delivered once, and the position ends with the process.
    """

    def __init__(
        self, connection: Connection, selection: Selection, *, durable: str | None, ack_wait: float, batch: int
    ) -> None:
        self._connection = connection
        self._selection = selection
        self._durable = durable
        self._ack_wait = ack_wait
        self._batch = batch
        self._name = durable or ""
        self._opened = False
        self._subscription: Subscription | None = None
        self._watch: asyncio.Future[None] | None = None
        self._denied = False
        self._inbox = ""
        self._requests = 0
        self._outstanding = 0
        self._heard = 0.0
        self._losses = connection.losses
        self._wake = asyncio.Event()
        # Of a consumer without a durable name: the last sequences, and whether a message or the consumer was lost.
        self._consumer_sequence = 0
        self._stream_sequence: int | None = None
        self._lost = False
        # When the last message came, or the consumer was created.
        self._advanced = 0.0
        # The last message of the stream's leader, as far as it was asked.
        self._last = 0
        # Whether nothing came for a while.
        self._idle = False
        #: Delivered and not yet taken by `next`.
        self.buffer: deque[Msg] = deque()
        #: The number of messages after the last delivered one, as far as the server of the consumer knows; at least 1
        #: if the leader of the stream was asked and had more.
        self.remaining = 0

    async def next(self, *, timeout: float | None, follow: bool, held: int) -> Msg | None:
        """The next message. `None` at the end of the selection if `follow` is false.

        `held` is the number of messages that the caller has taken and not acknowledged. Raises `ReadTimeoutError` after
        `timeout` seconds without a message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._durable is not None and self._connection.ack_denied is not None:
                raise self._connection.ack_denied
            if self.buffer:
                return self.buffer.popleft()
            self._connection.check_open()
            if self._denied:
                raise PermissionDeniedError(self._connection.api_subject(self._next_operation))
            if deadline is not None and time.monotonic() >= deadline:
                raise ReadTimeoutError(f"no message of {self._selection.stream} in {timeout:g} s")
            try:
                await self._ready(
                    _REQUEST_EXPIRES if deadline is None else min(_REQUEST_EXPIRES, seconds_left(deadline))
                )
                if not follow and (self.remaining == 0 or self._idle) and await self._at_end(held):
                    return None
            except (RequestTimeoutError, NoRespondersError) as error:
                # The server is restarting or its cluster has no leader.
                if not self._opened and isinstance(error, NoRespondersError):
                    raise ReadError("the NATS server does not offer JetStream to this user") from error
                log.warning("reading %s: %s; trying again", self._selection.stream, error)
                await asyncio.sleep(_RETRY_DELAY)
                continue
            await self._wait(deadline, follow)

    async def close(self) -> None:
        """Ends the consumer. One with a durable name keeps its position, and gets its unacknowledged messages again."""
        if self._subscription is None:
            return
        subscription, self._subscription = self._subscription, None
        if self._watch is not None:
            self._connection.unwatch(self._watch)
        try:
            await subscription.unsubscribe()
            if self._durable is None:
                await self._delete()
        except Exception as error:
            log.debug("the subscription of %s was not ended: %s", self._name, error)

    async def _ready(self, timeout: float) -> None:
        """Opens the consumer and requests messages where necessary. Waits for a lost connection for `timeout` s."""
        if self._losses != self._connection.losses or (self._outstanding and self._silent()):
            self._losses = self._connection.losses
            self._outstanding = 0
            self._lost = True
            await self._connection.wait_connected(timeout)
        if not self._opened or (self._lost and self._durable is None):
            await self._open()
        elif self._lost:
            await self._check_durable()
        self._lost = False
        if self._outstanding == 0:
            self._requests += 1
            self._outstanding = self._batch
            self._heard = time.monotonic()
            body = {
                "batch": self._batch,
                "expires": int(_REQUEST_EXPIRES * _NANOS),
                "idle_heartbeat": int(_HEARTBEAT * _NANOS),
            }
            await self._connection.publish(self._next_operation, f"{self._inbox}.{self._requests}", body)

    async def _open(self) -> None:
        if self._durable is None:
            await self._create(_start(self._selection.start) if self._stream_sequence is None else self._resume())
        else:
            try:
                info = await self._connection.api(f"CONSUMER.INFO.{self._selection.stream}.{self._name}")
            except ConsumerNotFoundError:
                info = await self._create(_start(self._selection.start))
            self._check_config(info["config"])
            self.remaining = info["num_pending"]
        if self._watch is not None:
            self._connection.unwatch(self._watch)
        self._watch = self._connection.watch(self._next_operation, self._refuse)
        if self._subscription is None:
            self._inbox = self._connection.new_inbox()
            self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._receive)
        self._opened = True

    async def _delete(self) -> None:
        try:
            await self._connection.api(f"CONSUMER.DELETE.{self._selection.stream}.{self._name}", timeout=2)
        except Exception as error:  # The server removes it after `_INACTIVE_THRESHOLD`.
            log.debug("the consumer %s was not removed: %s", self._name, error)

    async def _create(self, start: dict[str, Any]) -> Any:
        subjects = self._selection.subjects
        config: dict[str, Any] = {**start, "replay_policy": "instant"}
        if len(subjects) == 1:
            config["filter_subject"] = subjects[0]
        else:
            config["filter_subjects"] = list(subjects)
        if self._durable is not None:
            config |= {
                "durable_name": self._durable,
                "ack_policy": "explicit",
                "ack_wait": int(self._ack_wait * _NANOS),
            }
        else:
            # A new name for each, so that messages for the last one cannot be mistaken.
            self._name = f"groundling-read-{secrets.token_hex(8)}"
            config |= {"ack_policy": "none", "mem_storage": True}
            config["inactive_threshold"] = int(_INACTIVE_THRESHOLD * _NANOS)
        config["name"] = self._name
        # Named consumers are created on a subject with the stream's name, to which permissions can be limited.
        operation = f"CONSUMER.CREATE.{self._selection.stream}.{self._name}"
        if len(subjects) == 1:
            operation += f".{subjects[0]}"
        info = await self._connection.api(operation, {"stream_name": self._selection.stream, "config": config})
        self._consumer_sequence = 0
        # A request to the last consumer brings nothing more.
        self._outstanding = 0
        self._advanced = time.monotonic()
        if self._stream_sequence is None:
            self._stream_sequence = info["delivered"]["stream_seq"]
        self.remaining = info["num_pending"]
        return info

    def _check_config(self, config: dict[str, Any]) -> None:
        """A durable name that exists must read the same; creating it again would change what others read."""
        subject = config.get("filter_subject")
        existing = set(config.get("filter_subjects") or ([subject] if subject else [">"]))
        if existing != set(self._selection.subjects):
            raise ReaderConflictError(
                f"the durable reader {self._name!r} exists and reads {', '.join(sorted(existing))},"
                f" not {', '.join(self._selection.subjects)}; use another name or delete it"
            )
        if config.get("ack_policy") != "explicit" or config.get("deliver_subject"):
            raise ReaderConflictError(
                f"the consumer {self._name!r} exists and is not a durable reader; use another name"
            )

    async def _check_durable(self) -> None:
        try:
            await self._connection.api(f"CONSUMER.INFO.{self._selection.stream}.{self._name}")
        except ConsumerNotFoundError as error:
            raise ReadError(f"the durable reader {self._name!r} was deleted") from error
        # A server that refuses every request must not be asked without a pause.
        await asyncio.sleep(_RETRY_DELAY)

    def _resume(self) -> dict[str, Any]:
        assert self._stream_sequence is not None
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self._stream_sequence + 1}

    async def _at_end(self, held: int) -> bool:
        """Whether nothing is left to deliver, messages included that others have and may not acknowledge.

        A server that lags behind the leader of the stream says that nothing is pending although the leader has more.
        """
        try:
            info = await self._connection.api(f"CONSUMER.INFO.{self._selection.stream}.{self._name}")
        except ConsumerNotFoundError:
            self._lost = True
            return False
        # Others may have taken what came after the last message.
        self.remaining = info["num_pending"]
        if self.buffer or self.remaining > 0:
            return False
        delivered = info["delivered"]
        if self._durable is None:
            if delivered["consumer_seq"] > self._consumer_sequence:
                self._lost = True
                return False
            assert self._stream_sequence is not None
            passed = self._stream_sequence
        else:
            if info["num_ack_pending"] > held:
                return False
            passed = delivered["stream_seq"]
        # Asked each time: the message that was the last may have been deleted.
        self._last = await self._last_sequence()
        if self.buffer or self._lost:
            # A message came while the leader was asked, or the consumer was lost.
            return False
        if self._last <= passed:
            return True
        self.remaining = max(1, self.remaining)
        if self._durable is None and time.monotonic() - self._advanced > _STALLED:
            log.warning("reading %s: the server of the consumer lags behind", self._selection.stream)
            # The next one may be on another server.
            await self._delete()
            self._lost = True
        return False

    async def _last_sequence(self) -> int:
        """The sequence of the last message of the selection; 0 if there is none. The leader of the stream answers."""
        last = 0
        for subject in self._selection.subjects:
            operation = f"STREAM.MSG.GET.{self._selection.stream}"
            try:
                found = await self._connection.api(operation, {"last_by_subj": subject})
            except MessageNotFoundError:
                continue
            last = max(last, found["message"]["seq"])
        return last

    def _silent(self) -> bool:
        return time.monotonic() - self._heard > _SILENCE

    async def _wait(self, deadline: float | None, follow: bool) -> None:
        timeout = _SILENCE if follow else _END_POLL
        if deadline is not None:
            timeout = min(timeout, seconds_left(deadline))
        self._wake.clear()
        self._idle = False
        if self.buffer or self._lost or self._denied or self._outstanding == 0:
            return
        try:
            await asyncio.wait_for(self._wake.wait(), timeout)
        except asyncio.TimeoutError:
            self._idle = True

    @property
    def _next_operation(self) -> str:
        return f"CONSUMER.MSG.NEXT.{self._selection.stream}.{self._name}"

    def _refuse(self) -> None:
        self._denied = True
        self._wake.set()

    def _receive(self, message: Msg) -> None:
        self._heard = time.monotonic()
        if message.reply:
            self._deliver(message)
        elif message.subject == f"{self._inbox}.{self._requests}":
            self._receive_status(message.headers or {})
        self._wake.set()

    def _deliver(self, message: Msg) -> None:
        metadata = message.metadata
        if self._durable is None:
            if metadata.consumer != self._name:
                return
            if metadata.sequence.consumer != self._consumer_sequence + 1:
                self._lost = True
                return
            self._consumer_sequence = metadata.sequence.consumer
            self._stream_sequence = metadata.sequence.stream
        self._outstanding = max(0, self._outstanding - 1)
        self._advanced = time.monotonic()
        self.remaining = max(metadata.num_pending, int(metadata.sequence.stream < self._last))
        self.buffer.append(message)

    def _receive_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        if status == "100":
            last = int(headers.get("Nats-Last-Consumer", 0))
            self._lost |= self._durable is None and last > self._consumer_sequence
            return
        # 404 and 408: the request has expired. 409: the consumer was removed, or its leader changed. 503: it does not
        # exist, or has no leader.
        self._outstanding = 0
        self._lost |= status in ("409", "503")


def _start(start: Start) -> dict[str, Any]:
    if start == "first":
        return {"deliver_policy": "all"}
    if start == "new":
        return {"deliver_policy": "new"}
    if isinstance(start, int):
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, start)}
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ValueError("start: a time needs a time zone")
        time_of_start = start.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
        return {"deliver_policy": "by_start_time", "opt_start_time": time_of_start}
    raise ValueError(f"start: {start!r} is not 'first', 'new', a sequence or a time")
