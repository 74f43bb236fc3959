"""Annotations and failures as `pandas` data frames. Needs the extra `pandas`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas

from groundling.records import Annotation, Failure
from groundling.v1 import annotation_pb2

_BOX_COLUMNS = [
    "annotation_id",
    "dataset",
    "job_id",
    "bucket",
    "key",
    "width",
    "height",
    "task_id",
    "phrase",
    "phrase_score",
    "x0",
    "y0",
    "x1",
    "y1",
    "score",
]
_TEXT_COLUMNS = [
    "annotation_id",
    "dataset",
    "job_id",
    "bucket",
    "key",
    "width",
    "height",
    "task_id",
    "text",
    "finish_reason",
    "entities",
]
_FAILURE_COLUMNS = ["failure_id", "job_id", "bucket", "key", "reason", "message", "deliveries"]


def boxes_frame(annotations: Iterable[Annotation]) -> pandas.DataFrame:
    """A row for each box: corners in pixels, scores 0 to 1. Tasks without boxes have no row."""
    rows: list[dict[str, Any]] = []
    for annotation in annotations:
        picture = _picture(annotation)
        for box in annotation.boxes():
            corners = {"x0": box.x0, "y0": box.y0, "x1": box.x1, "y1": box.y1}
            named = {"task_id": box.task_id, "phrase": box.phrase, "phrase_score": box.phrase_score}
            rows.append({**picture, **named, **corners, "score": box.score})
    return pandas.DataFrame(rows, columns=_BOX_COLUMNS)


def texts_frame(annotations: Iterable[Annotation]) -> pandas.DataFrame:
    """A row for each result: its text, why it ended, and the number of phrases with boxes."""
    rows: list[dict[str, Any]] = []
    for annotation in annotations:
        for result in annotation.message.results:
            named = {"task_id": result.task_id, "text": result.text, "entities": len(result.entities)}
            rows.append({**_picture(annotation), **named, "finish_reason": _finish_reason(result.finish_reason)})
    return pandas.DataFrame(rows, columns=_TEXT_COLUMNS)


def failures_frame(failures: Iterable[Failure]) -> pandas.DataFrame:
    """A row for each failure."""
    rows = [
        {
            "failure_id": failure.failure_id,
            "job_id": failure.job_id,
            "bucket": failure.message.bucket or None,
            "key": failure.message.key or None,
            "reason": failure.reason,
            "message": failure.text,
            "deliveries": failure.message.deliveries,
        }
        for failure in failures
    ]
    return pandas.DataFrame(rows, columns=_FAILURE_COLUMNS)


def _picture(annotation: Annotation) -> dict[str, Any]:
    width, height = annotation.size
    stored = annotation.message.picture.object
    return {
        "annotation_id": annotation.annotation_id,
        "dataset": annotation.dataset,
        "job_id": annotation.job_id,
        # Inline pictures have neither.
        "bucket": stored.bucket or None,
        "key": stored.key or None,
        "width": width,
        "height": height,
    }


def _finish_reason(number: int) -> str:
    value = annotation_pb2.FinishReason.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else value.name.removeprefix("FINISH_REASON_")
