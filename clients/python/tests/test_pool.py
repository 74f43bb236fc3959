"""A whole pool: jobs of this client are done by a worker, and its results are read."""

from __future__ import annotations

from typing import Any

import servers

from groundling import Client, Job, Picture, S3Object, tasks

SCENE = "0000.jpg"
TASKS = [tasks.BriefCaption(task_id="caption"), tasks.PhraseGrounding("a snowman", task_id="ground")]
PROMPTS = {"caption": "<grounding> An image of", "ground": "<grounding><phrase> a snowman</phrase>"}


def boxes_of(golden: dict[str, Any]) -> list[tuple[str, list[float]]]:
    return [(phrase, box) for phrase, _, boxes in golden["entities"] for box in boxes]


async def test_objects_and_local_pictures_have_the_references_texts_and_boxes(pool: servers.Pool) -> None:
    picture = servers.DEMO / "scenes" / SCENE
    pool.upload("scenes/one scene.jpg", picture.read_bytes())
    stored = S3Object(servers.BUCKET, "scenes/one scene.jpg")
    expected = servers.goldens(SCENE)
    async with await Client.connect(pool.nats.url) as client:
        sources: dict[str, Picture] = {
            "object": stored,
            "address": f"s3://{stored.bucket}/{stored.key}",
            "file": picture,
            "bytes": picture.read_bytes(),
        }
        for job_id, source in sources.items():
            await client.submit("scenes", source, TASKS, job_id=job_id, labels={"camera": "7"})
        found = {}
        async with client.annotations("scenes", durable="index", timeout=servers.DEADLINE) as reader:
            async for annotation in reader:
                found[annotation.job_id] = annotation
                if len(found) == 4:
                    break
    assert sorted(found) == ["address", "bytes", "file", "object"]
    for annotation in found.values():
        assert (annotation.dataset, annotation.labels) == ("scenes", {"camera": "7"})
        width, height = annotation.size
        for task_id, prompt in PROMPTS.items():
            assert annotation.text(task_id) == expected[prompt]["text"]
            boxes = annotation.boxes(task_id)
            in_fractions = [
                (box.phrase, [box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height]) for box in boxes
            ]
            assert in_fractions == boxes_of(expected[prompt])
            assert all(0 < (box.score or 0) <= 1 for box in boxes)
            detections = annotation.to_supervision(task_id)
            assert detections.xyxy.tolist() == [[box.x0, box.y0, box.x1, box.y1] for box in boxes]
    assert found["object"].to_dict()["picture"]["object"]["key"] == "scenes/one scene.jpg"


async def test_a_failure_is_read_and_resubmitted_once_its_cause_is_removed(pool: servers.Pool) -> None:
    async with await Client.connect(pool.nats.url) as client:
        await client.submit("late", f"s3://{servers.BUCKET}/late.jpg", TASKS[:1], job_id="late")
        failures = client.failures("late", durable="failures", timeout=servers.DEADLINE)
        failure = await failures.__anext__()
        assert (failure.job_id, failure.reason) == ("late", "OBJECT_NOT_FOUND")
        assert "late.jpg" in failure.text
        assert failure.job is not None and failure.job.tasks[0].task_id == "caption"
        assert len(failure.failure_id) == 64
        every = [each.failure_id async for each in client.failures(None, follow=False)]
        assert failure.failure_id in every

        pool.upload("late.jpg", (servers.DEMO / "scenes" / SCENE).read_bytes())
        # With its old id the stream drops it.
        assert (await client.submit("late", f"s3://{servers.BUCKET}/late.jpg", TASKS[:1], job_id="late")).duplicate
        assert not (await client.resubmit(failure)).duplicate
        annotation = await client.annotations("late", timeout=servers.DEADLINE).__anext__()
        assert annotation.job_id == "late"


async def test_the_trace_goes_through_the_worker(pool: servers.Pool) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    context = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    picture = servers.DEMO / "scenes" / SCENE
    async with await Client.connect(pool.nats.url) as client:
        await client.submit("traced", picture, TASKS[:1], trace_context=context)
        annotation = await client.annotations("traced", timeout=servers.DEADLINE).__anext__()
        assert annotation.origin.trace_context["traceparent"].split("-")[1] == trace_id


async def test_a_job_that_is_submitted_twice_has_one_annotation_to_its_readers(pool: servers.Pool) -> None:
    picture = servers.DEMO / "scenes" / SCENE
    async with await Client.connect(pool.nats.url) as client:
        first = await client.submit("twice", picture, TASKS[:1])
        # As if the duplicate window of the jobs stream were over.
        connection = client._connection
        stored = Job("twice", picture, TASKS[:1]).to_message().SerializeToString(deterministic=True)
        again = await connection.request("groundling.jobs.twice", stored, headers={"Nats-Msg-Id": "later"})
        assert b"duplicate" not in again
        await client.submit("twice", picture, TASKS, job_id="last")
        read = []
        async for annotation in client.annotations("twice", timeout=servers.DEADLINE):
            read.append(annotation.job_id)
            # The worker may end them in another order.
            if {first.job_id, "last"} <= set(read):
                break
        assert sorted(read) == sorted([first.job_id, "last"])
