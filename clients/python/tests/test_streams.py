"""Submitting and reading with a real NATS server, without a worker."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timezone
from typing import Any

import nats
import pytest
import servers
from conftest import streams
from nats.js import JetStreamContext
from opentelemetry import trace

from groundling import (
    BlockingClient,
    Client,
    ConnectError,
    ConnectionClosedError,
    InvalidJobError,
    Job,
    JobTooLargeError,
    ReaderConflictError,
    ReadError,
    ReadTimeoutError,
    StreamFullError,
    StreamNotFoundError,
    Submission,
    SubmitTimeoutError,
    UndecodableMessageError,
    tasks,
)
from groundling._connection import Connection, MessageNotFoundError
from groundling.v1 import annotation_pb2, failure_pb2, job_pb2

CAPTION = [tasks.BriefCaption()]
PICTURE = "s3://pictures/a.jpg"


async def annotate(jetstream: JetStreamContext, *ids: str, dataset: str = "cats") -> None:
    """Publishes annotations as a worker does, without the stream's removal of duplicates."""
    for annotation_id in ids:
        message = annotation_pb2.ImageAnnotation(annotation_id=annotation_id, dataset=dataset)
        await jetstream.publish(f"groundling.annotations.{dataset}", message.SerializeToString())


def jobs(count: int) -> Iterator[Job]:
    return (Job("cats", f"s3://pictures/{number}.jpg", CAPTION, job_id=str(number)) for number in range(count))


# Submitting


async def test_a_job_that_is_submitted_again_is_dropped_and_one_of_another_dataset_is_not(
    server: servers.NatsServer,
) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        first = await client.submit("cats", PICTURE, CAPTION, job_id="42", labels={"camera": "7"})
        again = await client.submit("cats", PICTURE, CAPTION, job_id="42", labels={"camera": "8"})
        other = await client.submit("dogs", PICTURE, CAPTION, job_id="42")
        assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
        assert (first.sequence, again.sequence, other.sequence) == (1, 1, 2)
        stored = await jetstream.get_msg("GROUNDLING_JOBS", 1)
        job = job_pb2.ImageJob.FromString(stored.data or b"")
        assert (job.job_id, job.s3.key, dict(job.labels)) == ("42", "a.jpg", {"camera": "7"})
        assert job.tasks[0].HasField("brief_caption")


async def test_a_full_stream_is_an_error_and_can_be_waited_for(server: servers.NatsServer) -> None:
    async with streams(server, jobs_max_msgs=2) as jetstream, await Client.connect(server.url) as client:
        submitted = [each async for each in client.submit_many(jobs(3), concurrency=1, return_exceptions=True)]
        assert [type(each) for each in submitted] == [Submission, Submission, StreamFullError]

        async def make_room() -> None:
            await asyncio.sleep(0.5)
            await jetstream.purge_stream("GROUNDLING_JOBS")

        purge = asyncio.ensure_future(make_room())
        with pytest.raises(StreamFullError, match=r"maximum messages exceeded.*submit it later"):
            await client.submit("cats", PICTURE, CAPTION, wait_while_full=0.2)
        late = await client.submit("cats", PICTURE, CAPTION, wait_while_full=30)
        assert not late.duplicate
        await purge


async def test_many_jobs_are_submitted_in_order_no_faster_than_they_are_acknowledged(
    server: servers.NatsServer,
) -> None:
    taken = 0

    async def source() -> AsyncIterator[Job]:
        nonlocal taken
        for job in jobs(200):
            taken += 1
            yield job

    async with streams(server), await Client.connect(server.url) as client:
        acknowledged = 0
        async for submission in client.submit_many(source(), concurrency=8):
            assert submission.job_id == str(acknowledged)
            acknowledged += 1
            assert taken <= acknowledged + 8
        assert acknowledged == 200
        # Submitted again after an interruption, each is dropped.
        assert all([each.duplicate async for each in client.submit_many(jobs(200))])


async def test_one_bad_job_ends_the_iteration_or_is_yielded(server: servers.NatsServer) -> None:
    bad = [*jobs(2), Job("a.b", PICTURE, CAPTION), Job("cats", "/missing.jpg", CAPTION), *jobs(1)]
    async with streams(server), await Client.connect(server.url) as client:
        with pytest.raises(InvalidJobError, match=r"a\.b"):
            [each async for each in client.submit_many(bad)]
        found = [type(each) async for each in client.submit_many(bad, return_exceptions=True)]
        assert found == [Submission, Submission, InvalidJobError, FileNotFoundError, Submission]


async def test_a_picture_that_does_not_fit_into_a_message_is_refused_before_it_is_sent(
    server: servers.NatsServer,
) -> None:
    async with streams(server), await Client.connect(server.url) as client:
        for size in (1 << 20, (1 << 20) + 1, 5 << 20):
            with pytest.raises(JobTooLargeError, match="upload the picture"):
                await client.submit("cats", bytes(size), CAPTION)
        # The connection is still there.
        assert not (await client.submit("cats", bytes(1_000_000), CAPTION)).duplicate


async def test_a_picture_that_the_stream_refuses_is_too_large(server: servers.NatsServer) -> None:
    servers.setup(server)
    async with await Client.connect(server.url) as client:
        # docs/protocol.md: max_payload minus 16 KiB.
        with pytest.raises(JobTooLargeError):
            await client.submit("cats", bytes(1_032_192), CAPTION)
        assert (await client.submit("cats", bytes(1_030_000), CAPTION)).sequence == 1


async def test_missing_streams_are_named(server: servers.NatsServer) -> None:
    async with await Client.connect(server.url) as client:
        with pytest.raises(StreamNotFoundError, match="groundling setup"):
            await client.submit("cats", PICTURE, CAPTION, timeout=0.5)
        with pytest.raises(StreamNotFoundError, match="groundling setup"):
            await client.annotations("cats", timeout=5).__anext__()
        with pytest.raises(StreamNotFoundError, match="groundling setup"):
            await client.annotations("cats", durable="index", timeout=5).__anext__()


async def test_the_current_span_travels_with_the_job(server: servers.NatsServer) -> None:
    span = trace.NonRecordingSpan(
        trace.SpanContext(0xAF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
    )
    own = {"traceparent": "00-11111111111111111111111111111111-2222222222222222-00", "tracestate": "vendor=7"}
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        with trace.use_span(span):
            await client.submit("cats", PICTURE, CAPTION, job_id="1")
            _ = [each async for each in client.submit_many([Job("cats", PICTURE, CAPTION, job_id="2")])]
        await client.submit("cats", PICTURE, CAPTION, job_id="3", trace_context=own)
        await client.submit("cats", PICTURE, CAPTION, job_id="4")
        headers = [(await jetstream.get_msg("GROUNDLING_JOBS", number)).headers or {} for number in (1, 2, 3, 4)]
        for sent in headers[:2]:
            assert sent["traceparent"] == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        assert {name: headers[2][name] for name in own} == own
        assert "traceparent" not in headers[3]


async def test_a_failure_is_resubmitted_once(server: servers.NatsServer) -> None:
    job = Job("cats", PICTURE, CAPTION, job_id="42").to_message().SerializeToString()
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        for reason, subject in ((3, "cats"), (4, "cats.object_forbidden"), (1, "dogs")):
            failure = failure_pb2.JobFailure(
                job=job, subject="groundling.jobs.cats", job_id="42", stream_sequence=reason
            )
            headers = {"Nats-Msg-Id": str(reason)}
            await jetstream.publish(f"groundling.failed.{subject}", failure.SerializeToString(), headers=headers)
        # With and without the reason in the subject.
        found = [each async for each in client.failures("cats", follow=False)]
        assert [each.failure_id for each in found] == ["3", "4"]
        assert len([each async for each in client.failures(None, follow=False)]) == 3

        first, second = await client.resubmit(found[0]), await client.resubmit(found[0])
        assert (first.duplicate, second.duplicate) == (False, True)
        assert not (await client.resubmit(found[1])).duplicate
        stored = await jetstream.get_msg("GROUNDLING_JOBS", first.sequence)
        assert stored.data == job
        # As wire::identity::resubmission_id.
        assert (stored.headers or {})["Nats-Msg-Id"] == "42#3"
        found[0].message.job_omitted = True
        with pytest.raises(InvalidJobError, match="from its source"):
            await client.resubmit(found[0])


# Reading


async def test_annotations_are_read_from_the_first_once_each(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        assert [each async for each in client.annotations("cats", follow=False)] == []
        await annotate(jetstream, "a", "b", "a", "c")
        await annotate(jetstream, "d", dataset="dogs")
        await annotate(jetstream, "e", "b")
        for batch in (1, 2, 100):
            read = [each.annotation_id async for each in client.annotations("cats", follow=False, batch=batch)]
            assert read == ["a", "b", "c", "e"]
        every = [each.annotation_id async for each in client.annotations(None, follow=False)]
        assert every == ["a", "b", "c", "d", "e"]
        repeated = [each async for each in client.annotations("cats", follow=False, remember_ids=0)]
        assert [each.annotation_id for each in repeated] == ["a", "b", "a", "c", "e", "b"]
        last = [each async for each in client.annotations("cats", follow=False, remember_ids=1)]
        assert len(last) == 6

        later = client.annotations("cats", start=repeated[3].sequence, follow=False)
        assert [each.annotation_id async for each in later] == ["c", "e", "b"]
        timed = client.annotations("cats", start=repeated[4].origin.published, follow=False)
        assert [each.annotation_id async for each in timed] == ["e", "b"]
        assert abs((datetime.now(timezone.utc) - repeated[0].origin.published).total_seconds()) < servers.DEADLINE


async def test_new_annotations_are_waited_for(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "old")
        reader = client.annotations("cats", start="new", timeout=0.3)
        begun = time.monotonic()
        with pytest.raises(ReadTimeoutError):
            await reader.__anext__()
        assert time.monotonic() - begun < 2
        await annotate(jetstream, "new")
        assert (await reader.__anext__()).annotation_id == "new"


async def test_pages_cover_the_stream_once(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        ids = [str(number) for number in range(25)]
        await annotate(jetstream, *ids)
        read: list[str] = []
        sizes, after, more = [], 0, True
        while more:
            page = await client.annotations_page("cats", after=after, limit=10)
            read += [each.annotation_id for each in page.items]
            sizes.append(len(page.items))
            after, more = page.after, page.more
        assert (read, sizes) == (ids, [10, 10, 5])
        empty = await client.annotations_page("cats", after=after)
        assert (empty.items, empty.after, empty.more) == ([], after, False)
        exact = await client.annotations_page("cats", limit=25)
        assert (len(exact.items), exact.more) == (25, False)
        assert (await client.failures_page("cats")).items == []


async def test_a_durable_reader_continues_after_what_it_acknowledged(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, *"abcdef")
        async with client.annotations("cats", durable="index", batch=4) as reader:
            async for annotation in reader:
                if annotation.annotation_id == "c":
                    # Not acknowledged: the loop did not get to the next one.
                    break
        async with client.annotations("cats", durable="index", follow=False) as reader:
            assert sorted([each.annotation_id async for each in reader]) == list("cdef")
        async with client.annotations("cats", durable="index", follow=False) as reader:
            assert [each async for each in reader] == []


async def test_an_error_in_the_loop_leads_to_another_delivery(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "a", "b")
        stored = []
        for attempt in range(2):
            try:
                async with client.annotations("cats", durable="index", follow=False) as reader:
                    async for annotation in reader:
                        if attempt == 0 and annotation.annotation_id == "b":
                            raise OSError("the disk is full")
                        stored.append(annotation.annotation_id)
            except OSError:
                assert stored == ["a"]
        assert stored == ["a", "b"]


async def test_a_durable_reader_skips_repeated_ids_but_not_a_second_delivery(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "a", "a", "b")
        async with client.annotations("cats", durable="index", auto_ack=False, follow=False) as reader:
            first = await reader.__anext__()
            await reader.ack(first)
            with pytest.raises(ReadError, match="acknowledged before"):
                await reader.ack(first)
            second = await reader.__anext__()
            assert (first.annotation_id, second.annotation_id) == ("a", "b")
            # Nothing else, although b is not acknowledged.
            with pytest.raises(StopAsyncIteration):
                await reader.__anext__()
        async with client.annotations("cats", durable="index", follow=False) as reader:
            assert [each.annotation_id async for each in reader] == ["b"]
        info = await jetstream.consumer_info("GROUNDLING_ANNOTATIONS", "index")
        assert (info.num_pending, info.num_ack_pending) == (0, 0)
        plain = client.annotations("cats", follow=False)
        with pytest.raises(ReadError, match="durable"):
            await plain.ack(await plain.__anext__())


async def test_an_annotation_is_held_for_longer_than_ack_wait(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "a", "b")
        async with client.annotations("cats", durable="index", ack_wait=1, batch=2) as reader:
            held = await reader.__anext__()
            other = client.annotations("cats", durable="index", timeout=3)
            # Neither the one that is processed nor the one that waits is delivered to others.
            with pytest.raises(ReadTimeoutError):
                await other.__anext__()
            assert held.annotation_id == "a"
            assert (await reader.__anext__()).annotation_id == "b"


async def test_readers_with_the_same_name_share_the_annotations(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        ids = [str(number) for number in range(60)]
        await annotate(jetstream, *ids)

        async def read() -> list[str]:
            found = []
            async with client.annotations("cats", durable="index", follow=False, batch=5) as reader:
                async for annotation in reader:
                    found.append(annotation.annotation_id)
                    await asyncio.sleep(0.005)
            return found

        shares = await asyncio.gather(read(), read())
        assert sorted([*shares[0], *shares[1]], key=int) == ids
        assert all(shares)


async def test_a_durable_name_cannot_change_what_it_reads(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "a")
        assert len([each async for each in client.annotations("cats", durable="index", follow=False)]) == 1
        with pytest.raises(ReaderConflictError, match=r"reads groundling\.annotations\.cats,"):
            await client.annotations("dogs", durable="index").__anext__()
        async with client.failures("cats", durable="index", follow=False) as reader:
            # Another stream, so the name is free.
            assert [each async for each in reader] == []
        for name in ("", "a.b", "a b", "*"):
            with pytest.raises(ValueError, match="durable"):
                client.annotations("cats", durable=name)


async def test_a_message_of_another_type_is_an_error_and_can_be_passed_over(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await jetstream.publish("groundling.annotations.cats", b"\xffnot an annotation")
        await annotate(jetstream, "a")
        reader = client.annotations("cats", follow=False)
        with pytest.raises(UndecodableMessageError, match="message 1 ") as raised:
            await reader.__anext__()
        assert raised.value.sequence == 1
        assert (await reader.__anext__()).annotation_id == "a"


async def test_a_durable_reader_reports_a_message_of_another_type_once(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "a")
        await jetstream.publish("groundling.annotations.cats", b"\xffnot an annotation")
        await annotate(jetstream, "b")
        read: list[str | int] = []
        # Reopened each time, and open for longer than the server would wait before it delivers the message again.
        for _ in range(3):
            async with client.annotations("cats", durable="index", ack_wait=1, timeout=2.5) as reader:
                with pytest.raises((ReadTimeoutError, UndecodableMessageError)) as raised:
                    async for annotation in reader:
                        read.append(annotation.annotation_id)
                if isinstance(raised.value, UndecodableMessageError):
                    read.append(raised.value.sequence)
        assert read == ["a", 2, "b"]


async def test_a_page_ends_before_a_message_of_another_type(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "a", "b")
        await jetstream.publish("groundling.annotations.cats", b"\xffnot an annotation")
        await annotate(jetstream, "c")
        page = await client.annotations_page("cats")
        assert ([each.annotation_id for each in page.items], page.after, page.more) == (["a", "b"], 2, True)
        with pytest.raises(UndecodableMessageError) as raised:
            await client.annotations_page("cats", after=page.after)
        last = await client.annotations_page("cats", after=raised.value.sequence)
        assert ([each.annotation_id for each in last.items], last.after, last.more) == (["c"], 4, False)


# Lost connections and servers


@pytest.mark.parametrize("durable", [None, "index"])
async def test_a_reader_survives_the_death_of_the_server(server: servers.NatsServer, durable: str | None) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, *"abcdef")
        read = []
        async with client.annotations("cats", durable=durable, batch=2, ack_wait=2) as reader:
            async for annotation in reader:
                read.append(annotation.annotation_id)
                if annotation.annotation_id == "c":
                    await asyncio.to_thread(server.restart)
                    await annotate(jetstream, "g")
                if len(read) == 7:
                    break
        assert sorted(read) == list("abcdefg")
        if durable is None:
            assert read == list("abcdefg")


async def test_a_reader_survives_the_loss_of_its_consumer(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, *"abc")
        reader = client.annotations("cats", batch=1)
        read = [(await reader.__anext__()).annotation_id]
        for info in await jetstream.consumers_info("GROUNDLING_ANNOTATIONS"):
            await jetstream.delete_consumer("GROUNDLING_ANNOTATIONS", info.name)
        read += [(await reader.__anext__()).annotation_id for _ in range(2)]
        assert read == list("abc")

        durable = client.annotations("cats", durable="index", batch=1)
        await durable.__anext__()
        await jetstream.delete_consumer("GROUNDLING_ANNOTATIONS", "index")
        with pytest.raises(ReadError, match="was deleted"):
            for _ in range(3):
                await durable.__anext__()


@pytest.mark.parametrize("durable", [None, "index"])
async def test_a_read_ends_at_the_last_message_of_the_streams_leader(
    server: servers.NatsServer, monkeypatch: pytest.MonkeyPatch, durable: str | None
) -> None:
    last: int | None = 3
    asked = 0
    api = Connection.api

    async def leader(connection: Connection, operation: str, *arguments: Any, **options: Any) -> Any:
        nonlocal asked
        if not operation.startswith("STREAM.MSG.GET."):
            return await api(connection, operation, *arguments, **options)
        asked += 1
        if last is None:
            raise MessageNotFoundError(10037, "no message found")
        return {"message": {"seq": last}}

    monkeypatch.setattr(Connection, "api", leader)
    monkeypatch.setattr("groundling._consumer._STALLED", 0.5)
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "a", "b")
        reader = client.annotations("cats", durable=durable, follow=False)
        assert [(await reader.__anext__()).annotation_id for _ in "ab"] == ["a", "b"]
        assert asked == 0
        # The server of the consumer has not got the third message yet.
        names = {info.name for info in await jetstream.consumers_info("GROUNDLING_ANNOTATIONS")}
        late = asyncio.ensure_future(reader.__anext__())
        while asked < 8:
            assert not late.done()
            await asyncio.sleep(0.05)
        assert reader.remaining == 1
        consumers = {info.name for info in await jetstream.consumers_info("GROUNDLING_ANNOTATIONS")}
        # One without a durable name was created again, perhaps on another server.
        assert len(consumers) == 1 and (consumers == names) == (durable is not None)
        page = asyncio.ensure_future(client.annotations_page("cats", limit=2))
        await asyncio.sleep(0.3)
        await annotate(jetstream, "c")
        assert (await late).annotation_id == "c"
        assert reader.remaining == 0
        assert ([each.annotation_id for each in (await page).items], (await page).more) == (["a", "b"], True)
        # The leader has one more, which is then deleted.
        last = 4
        end = asyncio.ensure_future(reader.__anext__())
        await asyncio.sleep(0.3)
        assert not end.done()
        last = None
        with pytest.raises(StopAsyncIteration):
            await end


async def test_a_consumer_without_a_durable_name_is_removed(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        await annotate(jetstream, "a")
        async with client.annotations("cats") as reader:
            await reader.__anext__()
            assert len(await jetstream.consumers_info("GROUNDLING_ANNOTATIONS")) == 1
        assert await jetstream.consumers_info("GROUNDLING_ANNOTATIONS") == []


async def test_a_submission_waits_for_the_server_and_is_stored_once(server: servers.NatsServer) -> None:
    async with streams(server) as jetstream, await Client.connect(server.url) as client:
        server.kill()
        with pytest.raises(SubmitTimeoutError, match="may or may not be stored"):
            await client.submit("cats", PICTURE, CAPTION, timeout=0.5)
        waiting = asyncio.ensure_future(client.submit("cats", PICTURE, CAPTION))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.start)
        await waiting
        assert (await jetstream.stream_info("GROUNDLING_JOBS")).state.messages == 1


async def test_the_timeout_of_a_reader_holds_without_a_server(server: servers.NatsServer) -> None:
    async with streams(server), await Client.connect(server.url) as client:
        reader = client.annotations("cats", timeout=0.5)
        with pytest.raises(ReadTimeoutError):
            await reader.__anext__()
        server.kill()
        begun = time.monotonic()
        with pytest.raises(ReadTimeoutError):
            await reader.__anext__()
        assert time.monotonic() - begun < 10


async def test_a_server_that_does_not_respond_is_an_error(server: servers.NatsServer) -> None:
    server.kill()
    begun = time.monotonic()
    with pytest.raises(ConnectError, match=r"no connection in 1 s"):
        await Client.connect(server.url, connect_timeout=1)
    assert time.monotonic() - begun < 5


async def test_a_closed_client_says_so(server: servers.NatsServer) -> None:
    async with streams(server):
        client = await Client.connect(server.url)
        reader = client.annotations("cats")
        await client.close()
        with pytest.raises(ConnectionClosedError):
            await client.submit("cats", PICTURE, CAPTION)
        with pytest.raises(StopAsyncIteration):
            await reader.__anext__()


# Without asyncio


def test_the_blocking_client_submits_and_reads(server: servers.NatsServer) -> None:
    servers.setup(server)
    with BlockingClient.connect(server.url) as client:
        assert client.submit("cats", PICTURE, CAPTION, job_id="0").sequence == 1
        assert [each.job_id for each in client.submit_many(jobs(5))] == list("01234")
        for _ in client.submit_many(jobs(50), concurrency=2):
            break
        mixed = client.submit_many([Job("a.b", PICTURE, CAPTION)], return_exceptions=True)
        assert [type(each) for each in mixed] == [InvalidJobError]

        async def publish() -> None:
            connection = await nats.connect(server.url)
            await annotate(connection.jetstream(), *"abc")
            await connection.close()

        asyncio.run(publish())
        with client.annotations("cats", durable="index", follow=False) as reader:
            assert [each.annotation_id for each in reader] == list("abc")
        assert len(client.annotations_page("cats", limit=2).items) == 2
        with client.annotations("cats", durable="other", auto_ack=False) as reader:
            reader.ack(next(reader))
        with client.failures("cats", timeout=0.2) as failures, pytest.raises(ReadTimeoutError):
            next(failures)
    with pytest.raises(ConnectError):
        BlockingClient.connect("nats://127.0.0.1:1", connect_timeout=0.5)


def test_the_blocking_client_can_be_closed_without_a_server(server: servers.NatsServer) -> None:
    with BlockingClient.connect(server.url) as client:
        server.kill()
        with pytest.raises(SubmitTimeoutError):
            client.submit("cats", PICTURE, CAPTION, timeout=0.5)
        with client.annotations("cats", timeout=0.5) as reader, pytest.raises(ReadTimeoutError):
            next(reader)


async def test_the_blocking_client_works_inside_a_running_event_loop(server: servers.NatsServer) -> None:
    async with streams(server):
        # As in a notebook.
        with BlockingClient.connect(server.url) as client:
            assert client.submit("cats", PICTURE, CAPTION).sequence == 1


def test_the_version_of_the_package_is_that_of_the_program() -> None:
    manifest = (servers.ROOT / "Cargo.toml").read_text()
    package = (servers.ROOT / "clients/python/pyproject.toml").read_text()
    versions = [re.search(r'^version = "([^"]+)"', text, re.MULTILINE) for text in (manifest, package)]
    assert versions[0] is not None and versions[1] is not None
    assert versions[0][1] == versions[1][1]
