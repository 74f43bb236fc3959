"""A client that shares no code with the project: it needs only the .proto files and NATS.

    python submit_and_read.py NATS_URL MODULES PICTURE

MODULES is the folder of the Python modules that protoc generated from proto/. Submits a job with the picture inline and
a message that is not a job, and prints the annotation and the failure as JSON.
"""
import asyncio
import json
import sys

import nats


async def main(url, modules, picture):
    sys.path.insert(0, modules)
    from groundling.v1 import annotation_pb2, failure_pb2, job_pb2

    connection = await nats.connect(url)
    stream = connection.jetstream()
    annotations = await stream.subscribe("groundling.annotations.python", ordered_consumer=True)
    failures = await stream.subscribe("groundling.failed.python.*", ordered_consumer=True)

    job = job_pb2.ImageJob(job_id="from-python", dataset="python", labels={"camera": "7"})
    with open(picture, "rb") as file:
        job.inline = file.read()
    job.tasks.add(task_id="caption").brief_caption.SetInParent()
    job.tasks.add(task_id="ground").phrase_grounding.phrase = "a snowman"
    await stream.publish("groundling.jobs.python", job.SerializeToString(), headers={"Nats-Msg-Id": job.job_id})
    await stream.publish("groundling.jobs.python", b"\xffnot a job")

    annotation = annotation_pb2.ImageAnnotation.FromString((await annotations.next_msg(timeout=120)).data)
    failure = failure_pb2.JobFailure.FromString((await failures.next_msg(timeout=120)).data)
    await connection.close()
    print(json.dumps({
        "job_id": annotation.job_id,
        "labels": dict(annotation.labels),
        "size": [annotation.picture.width, annotation.picture.height],
        "texts": {result.task_id: result.text for result in annotation.results},
        "boxes": {
            result.task_id: [
                [entity.phrase, [[box.fractions.x0, box.fractions.y0, box.fractions.x1, box.fractions.y1]
                                 for box in entity.boxes]]
                for entity in result.entities
            ]
            for result in annotation.results
        },
        "failure": {"reason": failure_pb2.FailureReason.Name(failure.reason), "job": failure.job.hex()},
    }))


asyncio.run(main(*sys.argv[1:]))
