"""Reading from a cluster, one of whose servers lags behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
import servers
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import APIError

from groundling import Client
from groundling.v1 import annotation_pb2

STREAM = "GROUNDLING_ANNOTATIONS"
MESSAGES = 2000
READS = 6
ROUNDS = 3


async def create_stream(url: str) -> str:
    """Creates the stream and returns the name of its leader."""
    config = StreamConfig(name=STREAM, subjects=["groundling.annotations.*"], num_replicas=3)
    async with await nats.connect(url) as connection:
        jetstream = connection.jetstream(timeout=1)
        while True:
            try:
                await jetstream.add_stream(config)
                cluster = (await jetstream.stream_info(STREAM)).cluster
                if cluster is not None and cluster.leader:
                    return cluster.leader
            except (APIError, asyncio.TimeoutError):
                # The cluster has no leader yet.
                pass
            await asyncio.sleep(0.1)


async def annotate(jetstream: JetStreamContext, first: int) -> None:
    """Publishes annotations with numbers as ids."""
    for number in range(first, first + MESSAGES):
        # Their size makes the lag last.
        message = annotation_pb2.ImageAnnotation(annotation_id=str(number), labels={"filler": "x" * 4000})
        await jetstream.publish_async("groundling.annotations.cats", message.SerializeToString())
    await jetstream.publish_async_completed()


async def test_a_server_that_lags_behind_hides_no_annotations(tmp_path: Path) -> None:
    """Consumers are created on any server of the stream, and know what that server knows."""

    async def read(start: int, durable: str | None) -> int:
        async with client.annotations("cats", start=start, durable=durable, follow=False, batch=500) as reader:
            return len({annotation.annotation_id async for annotation in reader})

    with servers.cluster(tmp_path) as nodes:
        leader = await create_stream(next(iter(nodes.values())).url)
        # Without the server that creates consumers, reads would begin after an election.
        follower = next(node for name, node in nodes.items() if name not in (leader, node.meta_leader()))
        url = nodes[leader].url
        async with await nats.connect(url) as connection, await Client.connect(url) as client:
            for attempt in range(ROUNDS):
                first = attempt * MESSAGES
                follower.kill()
                await annotate(connection.jetstream(publish_async_max_pending=1000), first)
                await asyncio.to_thread(follower.start)
                durables = [None] * (READS - 1) + [f"index-{attempt}"]
                found = await asyncio.gather(*(read(first + 1, durable) for durable in durables))
                assert found == [MESSAGES] * READS, attempt
