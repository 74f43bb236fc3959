"""Fixtures, and support for tests that are coroutines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
import servers
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs coroutines with asyncio."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), servers.DEADLINE))
    return True


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Pool]:
    """Servers and a worker."""
    with servers.pool(tmp_path_factory.mktemp("pool")) as started:
        yield started


@pytest.fixture
def server(tmp_path: Path) -> Iterator[servers.NatsServer]:
    """A NATS server without streams."""
    started = servers.NatsServer(tmp_path)
    started.start()
    yield started
    started.kill()


@asynccontextmanager
async def streams(server: servers.NatsServer, *, jobs_max_msgs: int = -1) -> AsyncIterator[JetStreamContext]:
    """Creates the three streams of clients, as far as they matter to clients, and removes nothing."""
    connection = await nats.connect(server.url)
    jetstream = connection.jetstream()
    await jetstream.add_stream(
        StreamConfig(
            name="GROUNDLING_JOBS",
            subjects=["groundling.jobs.*"],
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            max_msgs=jobs_max_msgs,
        )
    )
    await jetstream.add_stream(StreamConfig(name="GROUNDLING_ANNOTATIONS", subjects=["groundling.annotations.*"]))
    await jetstream.add_stream(StreamConfig(name="GROUNDLING_FAILED", subjects=["groundling.failed.>"]))
    try:
        yield jetstream
    finally:
        await connection.close()
