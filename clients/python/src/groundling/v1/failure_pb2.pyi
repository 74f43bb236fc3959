import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from groundling.v1 import annotation_pb2 as _annotation_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_REASON_UNSPECIFIED: _ClassVar[FailureReason]
    FAILURE_REASON_INVALID_JOB: _ClassVar[FailureReason]
    FAILURE_REASON_INVALID_PROMPT: _ClassVar[FailureReason]
    FAILURE_REASON_OBJECT_NOT_FOUND: _ClassVar[FailureReason]
    FAILURE_REASON_OBJECT_FORBIDDEN: _ClassVar[FailureReason]
    FAILURE_REASON_OBJECT_CHANGED: _ClassVar[FailureReason]
    FAILURE_REASON_OBJECT_TOO_LARGE: _ClassVar[FailureReason]
    FAILURE_REASON_UNSUPPORTED_PICTURE: _ClassVar[FailureReason]
    FAILURE_REASON_UNDECODABLE_PICTURE: _ClassVar[FailureReason]
    FAILURE_REASON_PICTURE_TOO_LARGE: _ClassVar[FailureReason]
    FAILURE_REASON_ANNOTATION_TOO_LARGE: _ClassVar[FailureReason]
    FAILURE_REASON_RETRIES_EXHAUSTED: _ClassVar[FailureReason]
    FAILURE_REASON_INTERNAL: _ClassVar[FailureReason]
    FAILURE_REASON_DECODING_TIMED_OUT: _ClassVar[FailureReason]
    FAILURE_REASON_OBJECT_ARCHIVED: _ClassVar[FailureReason]
FAILURE_REASON_UNSPECIFIED: FailureReason
FAILURE_REASON_INVALID_JOB: FailureReason
FAILURE_REASON_INVALID_PROMPT: FailureReason
FAILURE_REASON_OBJECT_NOT_FOUND: FailureReason
FAILURE_REASON_OBJECT_FORBIDDEN: FailureReason
FAILURE_REASON_OBJECT_CHANGED: FailureReason
FAILURE_REASON_OBJECT_TOO_LARGE: FailureReason
FAILURE_REASON_UNSUPPORTED_PICTURE: FailureReason
FAILURE_REASON_UNDECODABLE_PICTURE: FailureReason
FAILURE_REASON_PICTURE_TOO_LARGE: FailureReason
FAILURE_REASON_ANNOTATION_TOO_LARGE: FailureReason
FAILURE_REASON_RETRIES_EXHAUSTED: FailureReason
FAILURE_REASON_INTERNAL: FailureReason
FAILURE_REASON_DECODING_TIMED_OUT: FailureReason
FAILURE_REASON_OBJECT_ARCHIVED: FailureReason

class JobFailure(_message.Message):
    __slots__ = ("job", "subject", "job_id", "reason", "message", "deliveries", "stream_sequence", "worker", "failed_at", "job_sha256", "job_omitted", "bucket", "key", "version_id")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    STREAM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    FAILED_AT_FIELD_NUMBER: _ClassVar[int]
    JOB_SHA256_FIELD_NUMBER: _ClassVar[int]
    JOB_OMITTED_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    job: bytes
    subject: str
    job_id: str
    reason: FailureReason
    message: str
    deliveries: int
    stream_sequence: int
    worker: _annotation_pb2.WorkerIdentity
    failed_at: _timestamp_pb2.Timestamp
    job_sha256: str
    job_omitted: bool
    bucket: str
    key: str
    version_id: str
    def __init__(self, job: _Optional[bytes] = ..., subject: _Optional[str] = ..., job_id: _Optional[str] = ..., reason: _Optional[_Union[FailureReason, str]] = ..., message: _Optional[str] = ..., deliveries: _Optional[int] = ..., stream_sequence: _Optional[int] = ..., worker: _Optional[_Union[_annotation_pb2.WorkerIdentity, _Mapping]] = ..., failed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., job_sha256: _Optional[str] = ..., job_omitted: _Optional[bool] = ..., bucket: _Optional[str] = ..., key: _Optional[str] = ..., version_id: _Optional[str] = ...) -> None: ...
