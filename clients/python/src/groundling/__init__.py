"""A client of Groundling: submits jobs, and reads annotations and failures.

    async with await Client.connect("nats://127.0.0.1:4222") as client:
        await client.submit("holiday", "s3://pictures/beach.webp", [tasks.BriefCaption()])
        async for annotation in client.annotations("holiday", durable="my-index"):
            print(annotation.text("brief_caption"))

`BlockingClient` is the same without asyncio. `groundling.v1` has the protobuf messages.
"""

from groundling import tasks
from groundling._submission import Submission
from groundling.blocking import BlockingClient, BlockingReader
from groundling.client import Client, Page
from groundling.errors import (
    ConnectError,
    ConnectionClosedError,
    GroundlingError,
    InvalidJobError,
    JobTooLargeError,
    PermissionDeniedError,
    ReaderConflictError,
    ReadError,
    ReadTimeoutError,
    RequestTimeoutError,
    StreamFullError,
    StreamNotFoundError,
    SubmitError,
    SubmitTimeoutError,
    UndecodableMessageError,
)
from groundling.jobs import Job, Picture, S3Object
from groundling.reader import Reader
from groundling.records import Annotation, Box, Failure, Origin
from groundling.v1.job_pb2 import BeamSearch, EarlyStopping, GenerationOptions

__all__ = [
    "Annotation",
    "BeamSearch",
    "BlockingClient",
    "BlockingReader",
    "Box",
    "Client",
    "ConnectError",
    "ConnectionClosedError",
    "EarlyStopping",
    "Failure",
    "GenerationOptions",
    "GroundlingError",
    "InvalidJobError",
    "Job",
    "JobTooLargeError",
    "Origin",
    "Page",
    "PermissionDeniedError",
    "Picture",
    "ReadError",
    "ReadTimeoutError",
    "Reader",
    "ReaderConflictError",
    "RequestTimeoutError",
    "S3Object",
    "StreamFullError",
    "StreamNotFoundError",
    "Submission",
    "SubmitError",
    "SubmitTimeoutError",
    "UndecodableMessageError",
    "tasks",
]
