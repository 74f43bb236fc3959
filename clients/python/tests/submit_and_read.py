"""What tests/pool/client.rs runs: python submit_and_read.py NATS_URL PICTURE TRACEPARENT

Submits a job with a local picture, as a part of the trace of TRACEPARENT, and a message that is not a job, and prints the annotation and the failure as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import nats
from groundling import Client, tasks

TIMEOUT = 120.0


async def main(url: str, picture: str, traceparent: str) -> None:
    job_tasks = [tasks.BriefCaption(task_id="caption"), tasks.PhraseGrounding("a snowman", task_id="ground")]
    async with await Client.connect(url) as client:
        await client.submit(
            "python",
            Path(picture),
            job_tasks,
            job_id="from-python",
            labels={"camera": "7"},
            trace_context={"traceparent": traceparent},
        )
        # The client refuses to submit anything but jobs.
        async with await nats.connect(url) as connection:
            await connection.jetstream().publish("groundling.jobs.python", b"\xffnot a job")
        annotation = await client.annotations("python", timeout=TIMEOUT).__anext__()
        failure = await client.failures("python", timeout=TIMEOUT).__anext__()

    boxes = {
        result.task_id: [
            [
                entity.phrase,
                [[box.fractions.x0, box.fractions.y0, box.fractions.x1, box.fractions.y1] for box in entity.boxes],
            ]
            for entity in result.entities
        ]
        for result in annotation.message.results
    }
    found = {
        "job_id": annotation.job_id,
        "traceparent": annotation.origin.trace_context["traceparent"],
        "labels": annotation.labels,
        "texts": {result.task_id: result.text for result in annotation.message.results},
        "boxes": boxes,
        "failure": {"reason": failure.to_dict()["reason"], "job": failure.message.job.hex()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
