"""Users with the permissions of docs/security.md, and with less."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from conftest import streams

from groundling import Client, ConnectError, PermissionDeniedError, tasks
from groundling.v1 import annotation_pb2

CAPTION = [tasks.BriefCaption()]
PICTURE = "s3://pictures/a.jpg"

#: The tables of docs/security.md.
READER = [
    "$JS.API.CONSUMER.*.GROUNDLING_ANNOTATIONS.>",
    "$JS.API.CONSUMER.CREATE.GROUNDLING_ANNOTATIONS",
    "$JS.API.CONSUMER.DURABLE.CREATE.GROUNDLING_ANNOTATIONS.*",
    "$JS.API.CONSUMER.MSG.NEXT.GROUNDLING_ANNOTATIONS.*",
    "$JS.ACK.GROUNDLING_ANNOTATIONS.>",
    "$JS.ACK.*.*.GROUNDLING_ANNOTATIONS.>",
    "$JS.FC.GROUNDLING_ANNOTATIONS.>",
    "$JS.API.STREAM.INFO.GROUNDLING_ANNOTATIONS",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.MSG.GET.GROUNDLING_ANNOTATIONS",
]
SUBMITTER = ["groundling.jobs.cats"]
NO_ACKS = [subject for subject in READER if "$JS.ACK" not in subject]
NO_PULLS = [subject for subject in READER if "MSG.NEXT" not in subject]
NO_LAST = [subject for subject in READER if "MSG.GET" not in subject]


def user(name: str, publish: list[str], subscribe: str = "_INBOX.>") -> str:
    allowed = ", ".join(f'"{subject}"' for subject in publish)
    permissions = f'{{ publish: {{ allow: [{allowed}] }}, subscribe: {{ allow: ["{subscribe}"] }} }}'
    return f'{{ user: "{name}", password: "secret", permissions: {permissions} }}'


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[servers.NatsServer]:
    """A NATS server whose users have few permissions. Without credentials, everything is allowed."""
    users = [
        '{ user: "admin", password: "secret" }',
        user("submitter", SUBMITTER),
        user("reader", READER),
        user("no-acks", NO_ACKS),
        user("no-pulls", NO_PULLS),
        user("no-last", NO_LAST),
        user("no-inbox", [">"], subscribe="elsewhere.>"),
        user("own-inbox", READER, subscribe="reader.inbox.>"),
    ]
    accounts = f'authorization {{ users: [ {", ".join(users)} ] }}\nno_auth_user: "admin"'
    started = servers.NatsServer(tmp_path, accounts)
    started.start()
    yield started
    started.kill()


async def connect(server: servers.NatsServer, name: str, inbox_prefix: str = "_INBOX") -> Client:
    return await Client.connect(server.url, user=name, password="secret", inbox_prefix=inbox_prefix)


async def test_the_documented_permissions_suffice(secured: servers.NatsServer) -> None:
    async with streams(secured) as jetstream, await connect(secured, "submitter") as submitter:
        assert (await submitter.submit("cats", PICTURE, CAPTION)).sequence == 1
        for annotation_id in "abc":
            message = annotation_pb2.ImageAnnotation(annotation_id=annotation_id)
            await jetstream.publish("groundling.annotations.cats", message.SerializeToString())
        for name, inbox in (("reader", "_INBOX"), ("own-inbox", "reader.inbox")):
            async with await connect(secured, name, inbox) as client:
                for durable in (None, name):
                    async with client.annotations("cats", durable=durable, follow=False) as reader:
                        assert [each.annotation_id async for each in reader] == list("abc")
                assert len((await client.annotations_page("cats", limit=2)).items) == 2
        infos = await jetstream.consumers_info("GROUNDLING_ANNOTATIONS")
        # Everything is acknowledged, and the readers without a durable name are gone.
        assert sorted((info.name, info.num_ack_pending) for info in infos) == [("own-inbox", 0), ("reader", 0)]


@pytest.mark.parametrize("durable", [None, "index"])
async def test_a_missing_permission_is_named_at_once(secured: servers.NatsServer, durable: str | None) -> None:
    begun = time.monotonic()
    async with streams(secured):
        async with await connect(secured, "submitter") as client:
            with pytest.raises(PermissionDeniedError, match=r'publish to "groundling\.jobs\.dogs"'):
                await client.submit("dogs", PICTURE, CAPTION)
            with pytest.raises(PermissionDeniedError, match=r"\$JS\.API\.CONSUMER\..*GROUNDLING_ANNOTATIONS\."):
                await client.annotations("cats", durable=durable).__anext__()
            # The connection can still be used.
            await client.submit("cats", PICTURE, CAPTION)
        async with await connect(secured, "no-pulls") as client:
            with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.MSG\.NEXT\.GROUNDLING_ANNOTATIONS"):
                await client.annotations("cats", durable=durable).__anext__()
        async with await connect(secured, "no-last") as client:
            with pytest.raises(PermissionDeniedError, match=r"STREAM\.MSG\.GET\.GROUNDLING_ANNOTATIONS"):
                await client.annotations("cats", durable=durable, follow=False).__anext__()
        async with await connect(secured, "no-inbox") as client:
            for _ in range(2):
                with pytest.raises(PermissionDeniedError, match=r'subscribe to "_inbox'):
                    await client.submit("cats", PICTURE, CAPTION)
    assert time.monotonic() - begun < 5


async def test_a_durable_reader_that_may_not_acknowledge_ends(secured: servers.NatsServer) -> None:
    async with streams(secured) as jetstream, await connect(secured, "no-acks") as client:
        for annotation_id in "abc":
            message = annotation_pb2.ImageAnnotation(annotation_id=annotation_id)
            await jetstream.publish("groundling.annotations.cats", message.SerializeToString())
        assert len([each async for each in client.annotations("cats", follow=False)]) == 3
        with pytest.raises(PermissionDeniedError, match=r"\$JS\.ACK"):
            async for _ in client.annotations("cats", durable="index"):
                await asyncio.sleep(0.1)


async def test_rejected_credentials_are_an_error_at_once(secured: servers.NatsServer) -> None:
    begun = time.monotonic()
    with pytest.raises(ConnectError, match="rejected the credentials"):
        await Client.connect(secured.url, user="reader", password="wrong")
    assert time.monotonic() - begun < 5
