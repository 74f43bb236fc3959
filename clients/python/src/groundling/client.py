"""The client: submits jobs and reads what became of them."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Generic, Literal, TypeVar, overload

from nats.aio.msg import Msg

from groundling._connection import Connection
from groundling._consumer import Consumer, Selection, Start
from groundling._submission import JOBS, EncodedJob, Submission, publish
from groundling.errors import InvalidJobError, UndecodableMessageError
from groundling.jobs import Job, Picture, check_dataset, message_id
from groundling.reader import Reader, Record
from groundling.records import Annotation, Failure, Origin
from groundling.tasks import Task
from groundling.tracing import current_context, read_context
from groundling.v1 import annotation_pb2, failure_pb2, job_pb2

_ANNOTATIONS = "groundling.annotations."
_FAILED = "groundling.failed."
_DURABLE_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")

Item = TypeVar("Item")
Outcome = TypeVar("Outcome", Annotation, Failure)


@dataclass(frozen=True)
class Page(Generic[Record]):
    """A part of a stream."""

    items: list[Record]
    #: Pass it as `after` for the next page.
    after: int
    #: Whether there are further messages.
    more: bool


class Client:
    """A connection to Groundling's NATS server. `Client.connect` makes one."""

    def __init__(
        self, connection: Connection, *, jobs_stream: str, annotations_stream: str, failed_stream: str
    ) -> None:
        self._connection = connection
        self._jobs_stream = jobs_stream
        self._annotations_stream = annotations_stream
        self._failed_stream = failed_stream
        self._readers: weakref.WeakSet[Reader[Any]] = weakref.WeakSet()

    @classmethod
    async def connect(
        cls,
        servers: str | Sequence[str] = "nats://127.0.0.1:4222",
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        nkey_seed_file: str | os.PathLike[str] | None = None,
        credentials_file: str | os.PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
        tls_first: bool = False,
        inbox_prefix: str = "_INBOX",
        jetstream_domain: str | None = None,
        api_prefix: str | None = None,
        name: str = "groundling-python",
        connect_timeout: float = 10.0,
        request_timeout: float = 5.0,
        jobs_stream: str = "GROUNDLING_JOBS",
        annotations_stream: str = "GROUNDLING_ANNOTATIONS",
        failed_stream: str = "GROUNDLING_FAILED",
    ) -> Client:
        """Connects to NATS. A connection that is lost later is reestablished for as long as it takes.

        `credentials_file` is a file of `nsc` with a JWT and a seed; it and `nkey_seed_file` need the extra `nkeys`.
        `tls` is the context for addresses that begin with `tls://`. The names of the streams are those of the workers'
        settings `streams.*`. Times are in seconds.

        Raises `ConnectError` if the server rejects the credentials, or none accepts within `connect_timeout`.
        """
        prefix = api_prefix or (f"$JS.{jetstream_domain}.API" if jetstream_domain else "$JS.API")
        connection = await Connection.open(
            servers,
            user=user,
            password=password,
            token=token,
            nkey_seed_file=nkey_seed_file,
            credentials_file=credentials_file,
            tls=tls,
            tls_first=tls_first,
            inbox_prefix=inbox_prefix,
            api_prefix=prefix,
            name=name,
            connect_timeout=connect_timeout,
            request_timeout=request_timeout,
        )
        return cls(
            connection, jobs_stream=jobs_stream, annotations_stream=annotations_stream, failed_stream=failed_stream
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the readers and the connection."""
        for reader in list(self._readers):
            await reader.aclose()
        await self._connection.close()

    # Submitting

    async def submit(
        self,
        dataset: str,
        picture: Picture,
        tasks: Sequence[Task],
        *,
        labels: Mapping[str, str] | None = None,
        job_id: str | None = None,
        options: job_pb2.GenerationOptions | None = None,
        trace_context: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
    ) -> Submission:
        """Submits a job and waits until the jobs stream has acknowledged it.

        `Job` describes the arguments. Calling this again with the same arguments is safe: within the duplicate window
        the stream drops the job, and later its annotation has the same id.

        `trace_context` has the headers `traceparent` and `tracestate`, which the worker continues; by default they are
        those of OpenTelemetry's current span, if there is one. A job without an acknowledgement is sent again for
        `timeout` seconds. A full stream is asked again for `wait_while_full` seconds.

        Raises `InvalidJobError`, `JobTooLargeError`, `StreamFullError`, `SubmitTimeoutError`, `StreamNotFoundError`,
        `PermissionDeniedError`, `ConnectionClosedError`, and `OSError` if a local picture cannot be read.
        """
        job = Job(dataset, picture, tasks, labels or {}, job_id, options)
        return await self.submit_job(job, trace_context=trace_context, timeout=timeout, wait_while_full=wait_while_full)

    async def submit_job(
        self,
        job: Job,
        *,
        trace_context: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
    ) -> Submission:
        """Submits a job like `submit`."""
        headers = current_context() if trace_context is None else dict(trace_context)
        # Reading a file would block the event loop.
        message = await asyncio.to_thread(job.to_message) if job.is_local_file else job.to_message()
        content = message.SerializeToString(deterministic=True)
        encoded = EncodedJob(message.dataset, message.job_id, content, message_id(message))
        return await publish(
            self._connection,
            self._jobs_stream,
            encoded,
            trace_context=headers,
            timeout=timeout,
            wait_while_full=wait_while_full,
        )

    @overload
    def submit_many(
        self,
        jobs: Iterable[Job] | AsyncIterable[Job],
        *,
        concurrency: int = 64,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
        return_exceptions: Literal[False] = False,
    ) -> AsyncIterator[Submission]: ...

    @overload
    def submit_many(
        self,
        jobs: Iterable[Job] | AsyncIterable[Job],
        *,
        concurrency: int = 64,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
        return_exceptions: Literal[True],
    ) -> AsyncIterator[Submission | Exception]: ...

    async def submit_many(
        self,
        jobs: Iterable[Job] | AsyncIterable[Job],
        *,
        concurrency: int = 64,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
        return_exceptions: bool = False,
    ) -> AsyncIterator[Submission | Exception]:
        """Submits jobs while it is iterated over, and yields a submission for each, in their order.

        Up to `concurrency` jobs wait for their acknowledgement at once; `jobs` is consumed no faster. The first error
        ends the iteration: jobs after it may be submitted too, and it is safe to submit all of them again. With
        `return_exceptions`, the exceptions of `submit` are yielded in place of submissions.
        """
        waiting: deque[asyncio.Task[Submission]] = deque()

        async def result() -> Submission | Exception:
            try:
                return await waiting.popleft()
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        try:
            async for job in _iterate(jobs):
                submission = self.submit_job(job, timeout=timeout, wait_while_full=wait_while_full)
                waiting.append(asyncio.ensure_future(submission))
                if len(waiting) >= max(1, concurrency):
                    yield await result()
            while waiting:
                yield await result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def resubmit(self, failure: Failure, *, timeout: float = 30.0, wait_while_full: float = 0.0) -> Submission:
        """Submits the job of a failure again, as a new job. A second call for the same failure is a duplicate.

        Raises `InvalidJobError` if the failure does not contain the job, and otherwise as `submit` does.
        """
        message = failure.message
        if message.job_omitted or not message.subject.startswith(JOBS):
            raise InvalidJobError("the failure does not contain the job; submit it from its source")
        dataset = message.subject.removeprefix(JOBS)
        # Line breaks are not possible in headers.
        name = message.job_id if message.job_id.isprintable() and message.job_id.strip() else message.job_sha256
        encoded = EncodedJob(dataset, message.job_id, message.job, f"{name}#{message.stream_sequence}")
        return await publish(
            self._connection,
            self._jobs_stream,
            encoded,
            trace_context=current_context(),
            timeout=timeout,
            wait_while_full=wait_while_full,
        )

    # Reading

    def annotations(
        self,
        dataset: str | None,
        *,
        durable: str | None = None,
        start: Start = "first",
        follow: bool = True,
        timeout: float | None = None,
        auto_ack: bool = True,
        ack_wait: float = 30.0,
        batch: int = 100,
        remember_ids: int | None = 1_000_000,
    ) -> Reader[Annotation]:
        """Reads the annotations of a dataset, or of all datasets (`None`).

        - `durable`: the name of a durable reader (letters, digits, `-`, `_`). The server keeps its position, and
          processes that use the same name share the annotations. Delivery is at least once: store annotations under
          their `annotation_id`.
        - `start`: where to begin: `"first"`, `"new"`, a sequence, or a time. A durable reader uses it only when it is
          created.
        - `follow`: wait for new annotations. Otherwise the iteration ends at the last one.
        - `timeout`: raise `ReadTimeoutError` if nothing arrives for this many seconds.
        - `auto_ack`: acknowledge an annotation when the next one is requested. Otherwise call `Reader.ack`.
        - `ack_wait`: after this many seconds without a sign of life, an annotation of a durable reader is delivered to
          another process. Used only when the reader is created.
        - `batch`: how many annotations are requested at once.
        - `remember_ids`: how many of the last ids are remembered to skip repeated annotations, about 100 bytes each.
          `None`: all.

        Raises, while it is iterated over: `StreamNotFoundError`, `PermissionDeniedError`, `ReaderConflictError`,
        `ReadTimeoutError`, `UndecodableMessageError`, `ConnectionClosedError`.
        """
        subjects = [f"{_ANNOTATIONS}{'*' if dataset is None else check_dataset(dataset)}"]
        selection = Selection(self._annotations_stream, subjects, start)
        return self._reader(selection, _annotation, durable, follow, timeout, auto_ack, ack_wait, batch, remember_ids)

    def failures(
        self,
        dataset: str | None,
        *,
        durable: str | None = None,
        start: Start = "first",
        follow: bool = True,
        timeout: float | None = None,
        auto_ack: bool = True,
        ack_wait: float = 30.0,
        batch: int = 100,
        remember_ids: int | None = 1_000_000,
    ) -> Reader[Failure]:
        """Reads the failures of a dataset, or of all datasets (`None`), like `annotations`."""
        if dataset is None:
            subjects = [f"{_FAILED}>"]
        else:
            # Failures can have the reason as a further token.
            subjects = [f"{_FAILED}{check_dataset(dataset)}", f"{_FAILED}{dataset}.>"]
        selection = Selection(self._failed_stream, subjects, start)
        return self._reader(selection, _failure, durable, follow, timeout, auto_ack, ack_wait, batch, remember_ids)

    async def annotations_page(self, dataset: str | None, *, after: int = 0, limit: int = 100) -> Page[Annotation]:
        """Up to `limit` annotations after the sequence `after`. Repeated ids are skipped within a page only.

        A page ends before a message that is not an annotation. The next one raises `UndecodableMessageError`; pass its
        `sequence` as `after` to continue after it.
        """
        start, batch = after + 1, max(1, min(limit, 1000))
        return await _page(self.annotations(dataset, start=start, follow=False, batch=batch), after, limit)

    async def failures_page(self, dataset: str | None, *, after: int = 0, limit: int = 100) -> Page[Failure]:
        """Up to `limit` failures after the sequence `after`."""
        start, batch = after + 1, max(1, min(limit, 1000))
        return await _page(self.failures(dataset, start=start, follow=False, batch=batch), after, limit)

    # Internals

    def _reader(
        self,
        selection: Selection,
        decode: Callable[[Msg], tuple[str, Outcome]],
        durable: str | None,
        follow: bool,
        timeout: float | None,
        auto_ack: bool,
        ack_wait: float,
        batch: int,
        remember_ids: int | None,
    ) -> Reader[Outcome]:
        if durable is not None and not _DURABLE_NAME.fullmatch(durable):
            raise ValueError(f"durable: {durable!r} must have 1 to 128 letters, digits, '-' and '_'")
        if batch < 1:
            raise ValueError("batch: must be at least 1")
        if isinstance(selection.start, datetime) and selection.start.tzinfo is None:
            raise ValueError("start: a time needs a time zone")
        consumer = Consumer(self._connection, selection, durable=durable, ack_wait=ack_wait, batch=batch)
        reader = Reader(
            consumer,
            decode,
            durable=durable is not None,
            follow=follow,
            auto_ack=auto_ack and durable is not None,
            timeout=timeout,
            ack_wait=ack_wait,
            remember_ids=remember_ids,
        )
        self._readers.add(reader)
        return reader


def _annotation(message: Msg) -> tuple[str, Annotation]:
    decoded = annotation_pb2.ImageAnnotation.FromString(message.data)
    return decoded.annotation_id, Annotation(decoded, _origin(message))


def _failure(message: Msg) -> tuple[str, Failure]:
    decoded = failure_pb2.JobFailure.FromString(message.data)
    origin = _origin(message)
    return origin.message_id, Failure(decoded, origin)


def _origin(message: Msg) -> Origin:
    headers = message.headers
    # nats-py rounds times. Newer servers put a domain and an account before the stream.
    tokens = message.reply.split(".")
    nanoseconds = int(tokens[7] if len(tokens) == 9 else tokens[9])
    published = datetime.fromtimestamp(0, timezone.utc) + timedelta(microseconds=nanoseconds // 1000)
    message_id = (headers or {}).get("Nats-Msg-Id", "")
    return Origin(message.metadata.sequence.stream, published, message_id, read_context(headers))


async def _page(reader: Reader[Outcome], after: int, limit: int) -> Page[Outcome]:
    items: list[Outcome] = []
    async with reader:
        while len(items) < limit:
            try:
                items.append(await reader.__anext__())
            except StopAsyncIteration:
                return Page(items, items[-1].sequence if items else after, False)
            except UndecodableMessageError:
                # The page ends before it; the next one begins with it, and raises.
                if not items:
                    raise
                return Page(items, items[-1].sequence, True)
        # The server that delivers may not know of all messages.
        more = reader.remaining > 0 or await _has_another(reader)
        return Page(items, items[-1].sequence if items else after, more)


async def _has_another(reader: Reader[Outcome]) -> bool:
    """Whether the reader has another message, which it takes."""
    try:
        await reader.__anext__()
    except StopAsyncIteration:
        return False
    except UndecodableMessageError:
        pass
    return True


async def _iterate(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
