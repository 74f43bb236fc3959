"""The client for programs without asyncio: the same methods, which block.

The connection lives on a thread of its own, so it also works where an event loop runs already, for example in a
notebook. A client must not be used after a fork.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, overload

from groundling._consumer import Start
from groundling._submission import Submission
from groundling.client import Client, Page
from groundling.jobs import Job, Picture
from groundling.reader import Reader, Record
from groundling.records import Annotation, Failure
from groundling.tasks import Task
from groundling.tracing import current_context
from groundling.v1 import job_pb2

Value = TypeVar("Value")


class _LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="groundling", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Runs a coroutine and returns its result. An interrupt (Ctrl-C) cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Cancels what still runs and ends the thread."""
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class BlockingReader(Generic[Record]):
    """An iterator over annotations or failures. `Reader` describes it."""

    def __init__(self, thread: _LoopThread, reader: Reader[Record]) -> None:
        self._thread = thread
        self._reader = reader

    def __enter__(self) -> BlockingReader[Record]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> BlockingReader[Record]:
        return self

    def __next__(self) -> Record:
        try:
            return self._thread.run(_next(self._reader))
        except StopAsyncIteration:
            raise StopIteration from None

    def ack(self, record: Record) -> None:
        """Like `Reader.ack`."""
        self._thread.run(self._reader.ack(record))

    def close(self) -> None:
        """Like `Reader.aclose`."""
        self._thread.run(self._reader.aclose())


class BlockingClient:
    """`Client` with methods that block. `BlockingClient.connect` makes one."""

    def __init__(self, thread: _LoopThread, client: Client) -> None:
        self._thread = thread
        self._client = client
        self._closed = False

    @classmethod
    def connect(cls, servers: str | Sequence[str] = "nats://127.0.0.1:4222", **options: Any) -> BlockingClient:
        """Connects to NATS with the options of `Client.connect`."""
        thread = _LoopThread()
        try:
            return cls(thread, thread.run(Client.connect(servers, **options)))
        except BaseException:
            thread.stop()
            raise

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the readers and the connection."""
        if not self._closed:
            self._closed = True
            self._thread.run(self._client.close())
            self._thread.stop()

    def submit(
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
        """Like `Client.submit`."""
        job = Job(dataset, picture, tasks, labels or {}, job_id, options)
        return self.submit_job(job, trace_context=trace_context, timeout=timeout, wait_while_full=wait_while_full)

    def submit_job(
        self,
        job: Job,
        *,
        trace_context: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
    ) -> Submission:
        """Like `Client.submit_job`."""
        # The current span is one of the caller's thread.
        context = current_context() if trace_context is None else trace_context
        submission = self._client.submit_job(
            job, trace_context=context, timeout=timeout, wait_while_full=wait_while_full
        )
        return self._thread.run(submission)

    @overload
    def submit_many(
        self,
        jobs: Iterable[Job],
        *,
        concurrency: int = 64,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
        return_exceptions: Literal[False] = False,
    ) -> Iterator[Submission]: ...

    @overload
    def submit_many(
        self,
        jobs: Iterable[Job],
        *,
        concurrency: int = 64,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
        return_exceptions: Literal[True],
    ) -> Iterator[Submission | Exception]: ...

    def submit_many(
        self,
        jobs: Iterable[Job],
        *,
        concurrency: int = 64,
        timeout: float = 30.0,
        wait_while_full: float = 0.0,
        return_exceptions: bool = False,
    ) -> Iterator[Submission | Exception]:
        """Like `Client.submit_many`. `jobs` is consumed on the client's thread."""
        submissions: AsyncIterator[Submission | Exception]
        if return_exceptions:
            submissions = self._client.submit_many(
                jobs,
                concurrency=concurrency,
                timeout=timeout,
                wait_while_full=wait_while_full,
                return_exceptions=True,
            )
        else:
            submissions = self._client.submit_many(
                jobs, concurrency=concurrency, timeout=timeout, wait_while_full=wait_while_full
            )
        try:
            while True:
                try:
                    yield self._thread.run(_next(submissions))
                except StopAsyncIteration:
                    return
        finally:
            if not self._closed:
                self._thread.run(_close(submissions))

    def resubmit(self, failure: Failure, *, timeout: float = 30.0, wait_while_full: float = 0.0) -> Submission:
        """Like `Client.resubmit`."""
        return self._thread.run(self._client.resubmit(failure, timeout=timeout, wait_while_full=wait_while_full))

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
    ) -> BlockingReader[Annotation]:
        """Like `Client.annotations`."""
        reader = self._client.annotations(
            dataset,
            durable=durable,
            start=start,
            follow=follow,
            timeout=timeout,
            auto_ack=auto_ack,
            ack_wait=ack_wait,
            batch=batch,
            remember_ids=remember_ids,
        )
        return BlockingReader(self._thread, reader)

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
    ) -> BlockingReader[Failure]:
        """Like `Client.failures`."""
        reader = self._client.failures(
            dataset,
            durable=durable,
            start=start,
            follow=follow,
            timeout=timeout,
            auto_ack=auto_ack,
            ack_wait=ack_wait,
            batch=batch,
            remember_ids=remember_ids,
        )
        return BlockingReader(self._thread, reader)

    def annotations_page(self, dataset: str | None, *, after: int = 0, limit: int = 100) -> Page[Annotation]:
        """Like `Client.annotations_page`."""
        return self._thread.run(self._client.annotations_page(dataset, after=after, limit=limit))

    def failures_page(self, dataset: str | None, *, after: int = 0, limit: int = 100) -> Page[Failure]:
        """Like `Client.failures_page`."""
        return self._thread.run(self._client.failures_page(dataset, after=after, limit=limit))


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _next(items: AsyncIterator[Value]) -> Value:
    return await items.__anext__()


async def _close(items: AsyncIterator[Value]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()
