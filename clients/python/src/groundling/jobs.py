"""Jobs: one picture and its tasks, checked before they are submitted."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from groundling.errors import InvalidJobError
from groundling.tasks import Task
from groundling.v1 import job_pb2

# The limits of docs/protocol.md that are cheap to check here. Workers check all of them.
_MAX_DATASET_BYTES = 128
_MAX_JOB_ID_BYTES = 256
_MAX_TASK_ID_BYTES = 128
_MAX_TASKS = 64
_MAX_LABELS = 64
_MAX_LABEL_NAME_BYTES = 256
_MAX_LABEL_VALUE_BYTES = 4096
_MAX_KEY_BYTES = 1024
_BUCKET = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True)
class S3Object:
    """An object in the S3 store of the workers. Their setting `s3.allow` must include it."""

    bucket: str
    #: The key as it is, not URL-encoded.
    key: str
    #: The version to read. `None`: the current one.
    version_id: str | None = None
    #: The ETag that the object must have; with another one the job fails. `None`: any.
    etag: str | None = None

    @classmethod
    def parse(cls, address: str) -> S3Object:
        """The object of an address `s3://BUCKET/KEY`. The key is taken as it is: nothing in it is decoded.

        Raises `InvalidJobError` if the address has another form.
        """
        bucket, slash, key = address.removeprefix("s3://").partition("/")
        if not address.startswith("s3://") or not bucket or not slash or not key:
            raise InvalidJobError(f"{address!r} is not an address of the form s3://BUCKET/KEY")
        return cls(bucket, key)


#: A picture: an object or its address `s3://BUCKET/KEY`; a local file, as a path or a string; or the encoded picture
#: (JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF). Files and bytes travel in the job and must fit into a message.
Picture = S3Object | str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class Job:
    """One picture and its tasks."""

    #: One token of a subject: 1 to 128 bytes, without whitespace, control characters, `.`, `*` and `>`.
    dataset: str
    picture: Picture
    #: 1 to 64 tasks. Results have the same order.
    tasks: Sequence[Task]
    #: Copied to the annotation: at most 64. Not part of any id.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: The submitter's id for the job: 1 to 256 bytes. `None`: a SHA-256 of dataset, picture, tasks and options, so that
    #: the same job has the same id.
    job_id: str | None = None
    #: How tokens are chosen, and when generation ends. `None`: the defaults.
    options: job_pb2.GenerationOptions | None = None

    @property
    def is_local_file(self) -> bool:
        """Whether `to_message` reads a file."""
        if isinstance(self.picture, str):
            return "://" not in self.picture
        return not isinstance(self.picture, S3Object | bytes)

    def to_message(self) -> job_pb2.ImageJob:
        """The protobuf message. Reads the picture if it is a local file.

        Raises `InvalidJobError` if the job breaks a rule, and `OSError` if the file cannot be read.
        """
        message = job_pb2.ImageJob(dataset=self.dataset)
        _set_picture(message, self.picture)
        message.tasks.extend(_tasks(self.tasks))
        if self.options is not None:
            message.options.CopyFrom(self.options)
        message.job_id = _digest(message) if self.job_id is None else self.job_id
        for name, value in self.labels.items():
            message.labels[name] = value
        _check(message)
        return message


def check_dataset(dataset: str) -> str:
    """The dataset, if it is one token of a subject. Raises `ValueError` (`InvalidJobError`) otherwise."""
    allowed = all(c.isprintable() and not c.isspace() and c not in ".*>" for c in dataset)
    if not allowed or not 1 <= len(dataset.encode()) <= _MAX_DATASET_BYTES:
        raise InvalidJobError(
            f"dataset {dataset!r}: must have 1 to {_MAX_DATASET_BYTES} bytes,"
            " without whitespace, control characters, '.', '*' and '>'"
        )
    return dataset


def message_id(job: job_pb2.ImageJob) -> str:
    """The `Nats-Msg-Id` of a job: a SHA-256 of everything but the labels, like the annotation id.

    The job id alone is not enough: the jobs stream drops a second message with a known id, also one of another dataset.
    """
    unlabelled = job_pb2.ImageJob()
    unlabelled.CopyFrom(job)
    unlabelled.labels.clear()
    return _digest(unlabelled)


def _digest(message: job_pb2.ImageJob) -> str:
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


def _set_picture(message: job_pb2.ImageJob, picture: Picture) -> None:
    if isinstance(picture, str) and picture.startswith("s3://"):
        picture = S3Object.parse(picture)
    if isinstance(picture, S3Object):
        message.s3.bucket, message.s3.key = picture.bucket, picture.key
        if picture.version_id is not None:
            message.s3.version_id = picture.version_id
        if picture.etag is not None:
            message.s3.etag = picture.etag
        return
    if isinstance(picture, str) and "://" in picture:
        raise InvalidJobError(
            f"{picture!r}: workers read s3:// addresses only; download the picture and submit its bytes"
        )
    message.inline = picture if isinstance(picture, bytes) else Path(picture).read_bytes()


def _tasks(tasks: Sequence[Task]) -> list[job_pb2.Task]:
    messages = []
    kinds: dict[str, int] = {}
    for task in tasks:
        message = task.to_message()
        kind = message.WhichOneof("kind") or "task"
        kinds[kind] = kinds.get(kind, 0) + 1
        default = kind if kinds[kind] == 1 else f"{kind}-{kinds[kind]}"
        message.task_id = default if task.task_id is None else task.task_id
        messages.append(message)
    return messages


def _check(job: job_pb2.ImageJob) -> None:
    check_dataset(job.dataset)
    problems = []
    if not 1 <= len(job.job_id.encode()) <= _MAX_JOB_ID_BYTES:
        problems.append(f"the job id must have 1 to {_MAX_JOB_ID_BYTES} bytes")
    if job.WhichOneof("source") == "inline" and not job.inline:
        problems.append("the picture is empty")
    if job.WhichOneof("source") == "s3":
        if not _BUCKET.fullmatch(job.s3.bucket):
            problems.append(f"{job.s3.bucket!r} is not the name of a bucket")
        if not 1 <= len(job.s3.key.encode()) <= _MAX_KEY_BYTES:
            problems.append(f"the key must have 1 to {_MAX_KEY_BYTES} bytes")
    if not 1 <= len(job.tasks) <= _MAX_TASKS:
        problems.append(f"{len(job.tasks)} tasks: a job has 1 to {_MAX_TASKS}")
    ids = [task.task_id for task in job.tasks]
    if len(set(ids)) < len(ids):
        problems.append("task ids must be unique")
    if not all(1 <= len(task_id.encode()) <= _MAX_TASK_ID_BYTES for task_id in ids):
        problems.append(f"task ids must have 1 to {_MAX_TASK_ID_BYTES} bytes")
    if len(job.labels) > _MAX_LABELS:
        problems.append(f"{len(job.labels)} labels: a job has at most {_MAX_LABELS}")
    for name, value in job.labels.items():
        if len(name.encode()) > _MAX_LABEL_NAME_BYTES or len(value.encode()) > _MAX_LABEL_VALUE_BYTES:
            problems.append(f"label {name[:40]!r}: the name or value is too long")
    if problems:
        raise InvalidJobError(f"job {job.job_id[:80]!r}: {'; '.join(problems)}")
