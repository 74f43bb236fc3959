import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from groundling.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_SCORED: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_SCORED: FinishReason

class ImageAnnotation(_message.Message):
    __slots__ = ("annotation_id", "job_id", "dataset", "labels", "picture", "model", "results", "timings", "worker", "finished_at")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ANNOTATION_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    annotation_id: str
    job_id: str
    dataset: str
    labels: _containers.ScalarMap[str, str]
    picture: PictureFacts
    model: ModelIdentity
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    timings: StageTimings
    worker: WorkerIdentity
    finished_at: _timestamp_pb2.Timestamp
    def __init__(self, annotation_id: _Optional[str] = ..., job_id: _Optional[str] = ..., dataset: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., picture: _Optional[_Union[PictureFacts, _Mapping]] = ..., model: _Optional[_Union[ModelIdentity, _Mapping]] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., timings: _Optional[_Union[StageTimings, _Mapping]] = ..., worker: _Optional[_Union[WorkerIdentity, _Mapping]] = ..., finished_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PictureFacts(_message.Message):
    __slots__ = ("format", "width", "height", "size_bytes", "sha256", "orientation", "orientation_applied", "object")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ORIENTATION_FIELD_NUMBER: _ClassVar[int]
    ORIENTATION_APPLIED_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    format: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    orientation: int
    orientation_applied: bool
    object: ObjectIdentity
    def __init__(self, format: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., orientation: _Optional[int] = ..., orientation_applied: _Optional[bool] = ..., object: _Optional[_Union[ObjectIdentity, _Mapping]] = ...) -> None: ...

class ObjectIdentity(_message.Message):
    __slots__ = ("bucket", "key", "etag", "version_id")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    etag: str
    version_id: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., etag: _Optional[str] = ..., version_id: _Optional[str] = ...) -> None: ...

class ModelIdentity(_message.Message):
    __slots__ = ("name", "revision", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("task_id", "prompt", "text", "answer", "raw_text", "entities", "finish_reason", "prompt_tokens", "generated_tokens", "token_ids", "logprobs", "loss")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    RAW_TEXT_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    prompt: str
    text: str
    answer: str
    raw_text: str
    entities: _containers.RepeatedCompositeFieldContainer[Entity]
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    loss: float
    def __init__(self, task_id: _Optional[str] = ..., prompt: _Optional[str] = ..., text: _Optional[str] = ..., answer: _Optional[str] = ..., raw_text: _Optional[str] = ..., entities: _Optional[_Iterable[_Union[Entity, _Mapping]]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., prompt_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., loss: _Optional[float] = ...) -> None: ...

class Entity(_message.Message):
    __slots__ = ("phrase", "span", "byte_span", "boxes", "score")
    PHRASE_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    BYTE_SPAN_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    phrase: str
    span: CodePointSpan
    byte_span: ByteSpan
    boxes: _containers.RepeatedCompositeFieldContainer[GroundedBox]
    score: float
    def __init__(self, phrase: _Optional[str] = ..., span: _Optional[_Union[CodePointSpan, _Mapping]] = ..., byte_span: _Optional[_Union[ByteSpan, _Mapping]] = ..., boxes: _Optional[_Iterable[_Union[GroundedBox, _Mapping]]] = ..., score: _Optional[float] = ...) -> None: ...

class CodePointSpan(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ByteSpan(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class GroundedBox(_message.Message):
    __slots__ = ("fractions", "pixels", "score", "refined")
    FRACTIONS_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REFINED_FIELD_NUMBER: _ClassVar[int]
    fractions: _job_pb2.FractionBox
    pixels: PixelBox
    score: float
    refined: _job_pb2.FractionBox
    def __init__(self, fractions: _Optional[_Union[_job_pb2.FractionBox, _Mapping]] = ..., pixels: _Optional[_Union[PixelBox, _Mapping]] = ..., score: _Optional[float] = ..., refined: _Optional[_Union[_job_pb2.FractionBox, _Mapping]] = ...) -> None: ...

class PixelBox(_message.Message):
    __slots__ = ("x0", "y0", "x1", "y1")
    X0_FIELD_NUMBER: _ClassVar[int]
    Y0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    x0: float
    y0: float
    x1: float
    y1: float
    def __init__(self, x0: _Optional[float] = ..., y0: _Optional[float] = ..., x1: _Optional[float] = ..., y1: _Optional[float] = ...) -> None: ...

class StageTimings(_message.Message):
    __slots__ = ("intake", "fetch", "decode", "queue", "vision", "prefill", "generate", "total")
    INTAKE_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    VISION_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    intake: _duration_pb2.Duration
    fetch: _duration_pb2.Duration
    decode: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    vision: _duration_pb2.Duration
    prefill: _duration_pb2.Duration
    generate: _duration_pb2.Duration
    total: _duration_pb2.Duration
    def __init__(self, intake: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., fetch: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., decode: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., vision: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., prefill: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., generate: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., total: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WorkerIdentity(_message.Message):
    __slots__ = ("worker_id", "version")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    version: str
    def __init__(self, worker_id: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
