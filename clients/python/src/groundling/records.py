"""Annotations and failures as they are read from their streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from groundling.v1 import annotation_pb2, failure_pb2, job_pb2

if TYPE_CHECKING:
    import supervision

_REASON_PREFIX = "FAILURE_REASON_"


@dataclass(frozen=True)
class Origin:
    """Where and when a message was stored."""

    #: The sequence in the stream.
    sequence: int
    #: When the stream stored the message, by the server's clock, in whole microseconds.
    published: datetime
    #: The `Nats-Msg-Id`. Empty if there is none.
    message_id: str
    #: The worker's trace context: `traceparent` and `tracestate`. Empty if the worker wrote none.
    trace_context: Mapping[str, str]


@dataclass(frozen=True)
class Box:
    """A box of a phrase, in pixels of the picture from the upper left corner, not rounded."""

    task_id: str
    #: The phrase that the box belongs to.
    phrase: str
    x0: float
    y0: float
    x1: float
    y1: float
    #: Geometric mean of the probabilities of the box's two patch tokens, 0 to 1. `None` if the prompt contains the box.
    score: float | None
    #: Geometric mean of the probabilities of the phrase's tokens, 0 to 1. `None` if the prompt contains the phrase.
    phrase_score: float | None
    #: The same box with sub-cell corners, in pixels. `None` if the box was not generated.
    refined: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Annotation:
    """The results of one job. `message` has all fields."""

    message: annotation_pb2.ImageAnnotation
    origin: Origin

    @property
    def annotation_id(self) -> str:
        """The same for the same job, picture and model: use it as the key where annotations are stored."""
        return self.message.annotation_id

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.message.job_id

    @property
    def dataset(self) -> str:
        """The job's dataset."""
        return self.message.dataset

    @property
    def labels(self) -> dict[str, str]:
        """The job's labels."""
        return dict(self.message.labels)

    @property
    def sequence(self) -> int:
        """The sequence in the stream."""
        return self.origin.sequence

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels, after its orientation was applied."""
        return self.message.picture.width, self.message.picture.height

    def result(self, task_id: str) -> annotation_pb2.TaskResult:
        """The result of a task. Raises `KeyError` if the job has no such task."""
        for result in self.message.results:
            if result.task_id == task_id:
                return result
        known = ", ".join(repr(result.task_id) for result in self.message.results) or "none"
        raise KeyError(f"no task {task_id!r}; the tasks of this annotation: {known}")

    def text(self, task_id: str) -> str:
        """Prompt and answer of a task, without markup. Raises `KeyError` if the job has no such task."""
        return self.result(task_id).text

    def boxes(self, task_id: str | None = None) -> list[Box]:
        """The boxes of a task, or of all tasks, in the order of the texts.

        Raises `KeyError` if the job has no such task.
        """
        results = self.message.results if task_id is None else [self.result(task_id)]
        return [box for result in results for box in _boxes(result, *self.size)]

    def to_dict(self) -> dict[str, Any]:
        """The annotation as protobuf's JSON with the field names of the `.proto` files, except that 64-bit integers are
        integers, not strings. Absent `optional` fields have no key."""
        return to_dict(self.message)

    def to_supervision(self, task_id: str | None = None, *, refined: bool = False) -> supervision.Detections:
        """The boxes of a task, or of all tasks, as `supervision.Detections` in pixels.

        `class_id` numbers the distinct phrases of these boxes in the order of the texts. `confidence` is the score of
        the box, and NaN if the prompt contains the box. `data` has `class_name` (the phrase), `phrase_score` (NaN if
        absent) and `task_id`. With `refined`, boxes have sub-cell corners where there are any.

        Raises `KeyError` if the job has no such task, `ImportError` without the extra `supervision`.
        """
        from groundling._supervision import detections

        return detections(self.boxes(task_id), refined=refined)


@dataclass(frozen=True)
class Failure:
    """The failure of one job. `message` has all fields."""

    message: failure_pb2.JobFailure
    origin: Origin

    @property
    def failure_id(self) -> str:
        """The same for the same message of the jobs stream: use it as the key where failures are stored."""
        return self.origin.message_id

    @property
    def job_id(self) -> str | None:
        """The job's id. `None` if the job is unreadable."""
        return self.message.job_id if self.message.HasField("job_id") else None

    @property
    def reason(self) -> str:
        """Why the job failed, for example `OBJECT_NOT_FOUND`. A number if this version does not know the reason."""
        value = failure_pb2.FailureReason.DESCRIPTOR.values_by_number.get(self.message.reason)
        return str(self.message.reason) if value is None else value.name.removeprefix(_REASON_PREFIX)

    @property
    def text(self) -> str:
        """One sentence that says what is wrong and, if possible, what to do."""
        return self.message.message

    @property
    def sequence(self) -> int:
        """The sequence in the stream."""
        return self.origin.sequence

    @property
    def job(self) -> job_pb2.ImageJob | None:
        """The job. `None` if its bytes are unreadable, or too large to be part of the failure."""
        if self.message.job_omitted:
            return None
        try:
            return job_pb2.ImageJob.FromString(self.message.job)
        except Exception:  # DecodeError is not the same class in all implementations of protobuf.
            return None

    def to_dict(self) -> dict[str, Any]:
        """The failure as protobuf's JSON with the field names of the `.proto` files, except that 64-bit integers are
        integers, not strings. `job` is in base64. Absent `optional` fields have no key."""
        return to_dict(self.message)


def _boxes(result: annotation_pb2.TaskResult, width: int, height: int) -> Iterator[Box]:
    for entity in result.entities:
        for box in entity.boxes:
            corners, refined = box.pixels, box.refined
            yield Box(
                task_id=result.task_id,
                phrase=entity.phrase,
                x0=corners.x0,
                y0=corners.y0,
                x1=corners.x1,
                y1=corners.y1,
                score=box.score if box.HasField("score") else None,
                phrase_score=entity.score if entity.HasField("score") else None,
                refined=(refined.x0 * width, refined.y0 * height, refined.x1 * width, refined.y1 * height)
                if box.HasField("refined")
                else None,
            )


_INTEGERS_OF_64_BITS = (
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
)


def to_dict(message: Message) -> dict[str, Any]:
    """A message as protobuf's JSON with its own field names, with 64-bit integers as integers."""
    converted: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _convert_integers(message.DESCRIPTOR.fields, converted)
    return converted


def _convert_integers(fields: Iterable[Any], converted: dict[str, Any]) -> None:
    for field in fields:
        if field.name not in converted:
            continue
        value = converted[field.name]
        if field.type in _INTEGERS_OF_64_BITS:
            converted[field.name] = [int(item) for item in value] if isinstance(value, list) else int(value)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for item in value if isinstance(value, list) else [value]:
                # Timestamps and durations are strings.
                if isinstance(item, dict):
                    _convert_integers(field.message_type.fields, item)
