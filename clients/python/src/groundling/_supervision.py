"""Boxes as detections of the package `supervision`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import supervision

from groundling.records import Box


def detections(boxes: Sequence[Box], *, refined: bool) -> supervision.Detections:
    """The boxes in pixels, with the phrases as class names."""
    if not boxes:
        return supervision.Detections.empty()
    corners = [
        box.refined if refined and box.refined is not None else (box.x0, box.y0, box.x1, box.y1) for box in boxes
    ]
    # Without well-formed decoding, the model can generate corners in reverse.
    ordered = [(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)) for x0, y0, x1, y1 in corners]
    classes: dict[str, int] = {}
    for box in boxes:
        classes.setdefault(box.phrase, len(classes))
    return supervision.Detections(
        xyxy=numpy.array(ordered, dtype=numpy.float32),
        confidence=_scores([box.score for box in boxes]),
        class_id=numpy.array([classes[box.phrase] for box in boxes]),
        data={
            "class_name": numpy.array([box.phrase for box in boxes]),
            "phrase_score": _scores([box.phrase_score for box in boxes]),
            "task_id": numpy.array([box.task_id for box in boxes]),
        },
    )


def _scores(scores: Sequence[float | None]) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.float32]]:
    return numpy.array([numpy.nan if score is None else score for score in scores], dtype=numpy.float32)
