"""Annotations and failures in the forms that other tools take."""

from __future__ import annotations

import json
import math
import pickle
from datetime import datetime, timezone

import numpy
import pytest
import supervision
from google.protobuf.json_format import ParseDict
from test_jobs import stored

from groundling import Annotation, Failure, Origin
from groundling.frames import boxes_frame, failures_frame, texts_frame
from groundling.tracing import read_context
from groundling.v1 import annotation_pb2, failure_pb2

ORIGIN = Origin(7, datetime(2026, 1, 2, tzinfo=timezone.utc), "id", {})


def annotation() -> Annotation:
    """One with every field."""
    return Annotation(annotation_pb2.ImageAnnotation.FromString(stored("ANNOTATION")), ORIGIN)


def test_an_annotation_has_the_fields_of_its_message() -> None:
    read = annotation()
    assert read.annotation_id == "ab52def047aaac8163c19d6b252677904884ba2969005d581c74d80f1e314856"
    assert (read.job_id, read.dataset, read.labels, read.size) == ("job-1", "cats", {"camera": "7"}, (256, 192))
    assert read.text("brief") == "An image of a fox."
    with pytest.raises(KeyError, match=r"no task 'other'.*: 'brief'"):
        read.text("other")
    with pytest.raises(KeyError):
        read.boxes("other")
    [box] = read.boxes()
    assert (box.task_id, box.phrase, box.score, box.phrase_score) == ("brief", "a fox", 0.25, 0.5)
    assert (box.x0, box.y0, box.x1, box.y1) == (44.0, 57.0, 116.0, 111.0)
    assert box.refined == pytest.approx((0.17 * 256, 0.3 * 192, 0.45 * 256, 0.58 * 192))


def test_a_dictionary_is_protobufs_json_with_integers() -> None:
    read = annotation()
    made = read.to_dict()
    assert made["picture"]["size_bytes"] == 11172
    assert made["results"][0]["entities"][0]["boxes"][0]["pixels"]["y1"] == 111.0
    assert made["finished_at"] == "2023-11-14T22:13:20.000000005Z"
    assert ParseDict(json.loads(json.dumps(made)), annotation_pb2.ImageAnnotation()) == read.message


def test_an_annotation_can_be_pickled() -> None:
    read = annotation()
    assert pickle.loads(pickle.dumps(read)) == read


def test_a_failure_has_the_fields_of_its_message() -> None:
    failure = Failure(failure_pb2.JobFailure.FromString(stored("FAILURE")), ORIGIN)
    assert (failure.job_id, failure.reason, failure.failure_id) == ("job-1", "OBJECT_NOT_FOUND", "id")
    assert failure.text == "s3://imgs/a/b.jpg does not exist"
    assert failure.job is not None and failure.job.tasks[1].phrase_grounding.phrase == "a cat"
    made = failure.to_dict()
    assert (made["stream_sequence"], made["reason"]) == (7, "FAILURE_REASON_OBJECT_NOT_FOUND")
    assert ParseDict(made, failure_pb2.JobFailure()) == failure.message

    without_job = Failure(failure_pb2.JobFailure.FromString(stored("FAILURE_WITHOUT_JOB")), ORIGIN)
    assert (without_job.job_id, without_job.job) == (None, None)
    unreadable = failure_pb2.JobFailure(job=b"\xffnot a job", reason=99)  # type: ignore[arg-type]
    assert Failure(unreadable, ORIGIN).job is None
    assert Failure(unreadable, ORIGIN).reason == "99"


def test_supervision_gets_pixels_phrases_and_scores() -> None:
    read = annotation()
    # A second task: the same phrase, with a box that the prompt contains and with its corners in reverse.
    second = read.message.results.add(task_id="find")
    entity = second.entities.add(phrase="a fox")
    entity.boxes.add(pixels=annotation_pb2.PixelBox(x0=9, y0=8, x1=1, y1=2))
    other = second.entities.add(phrase="a tower", score=0.75)
    other.boxes.add(pixels=annotation_pb2.PixelBox(x0=0, y0=0, x1=4, y1=4), score=1.0)

    detections = read.to_supervision()
    assert isinstance(detections, supervision.Detections)
    numpy.testing.assert_allclose(detections.xyxy, [[44, 57, 116, 111], [1, 2, 9, 8], [0, 0, 4, 4]])
    assert detections.confidence is not None and detections.class_id is not None
    assert detections.confidence[0] == 0.25 and math.isnan(detections.confidence[1])
    assert detections.class_id.tolist() == [0, 0, 1]
    assert list(detections.data["class_name"]) == ["a fox", "a fox", "a tower"]
    assert list(detections.data["task_id"]) == ["brief", "find", "find"]
    certain = detections[detections.confidence > 0.2]
    assert isinstance(certain, supervision.Detections) and len(certain) == 2

    assert len(read.to_supervision("find")) == 2
    refined = read.to_supervision("brief", refined=True)
    numpy.testing.assert_allclose(refined.xyxy, [[43.52, 57.6, 115.2, 111.36]], rtol=1e-5)
    del read.message.results[:]
    assert len(read.to_supervision()) == 0


def test_pandas_gets_a_row_for_each_box_result_and_failure() -> None:
    read = annotation()
    read.message.results.add(task_id="empty", text="nothing")
    boxes = boxes_frame([read])
    assert boxes[["annotation_id", "key", "phrase", "x1", "score"]].to_dict("records") == [
        {"annotation_id": read.annotation_id, "key": "a/b.jpg", "phrase": "a fox", "x1": 116.0, "score": 0.25}
    ]
    texts = texts_frame([read])
    assert texts["text"].tolist() == ["An image of a fox.", "nothing"]
    assert texts["finish_reason"].tolist() == ["LENGTH", "UNSPECIFIED"]
    assert texts["entities"].tolist() == [1, 0]
    failure = Failure(failure_pb2.JobFailure.FromString(stored("FAILURE")), ORIGIN)
    assert failures_frame([failure])[["reason", "deliveries"]].to_dict("records") == [
        {"reason": "OBJECT_NOT_FOUND", "deliveries": failure.message.deliveries}
    ]
    assert list(boxes_frame([]).columns) == list(boxes.columns)


def test_the_trace_context_is_found_under_the_names_that_servers_and_clients_write() -> None:
    assert read_context(None) == {}
    assert read_context({"Traceparent": "a", "Other": "b"}) == {"traceparent": "a"}
    assert read_context({"Xraceparent": "a", "traceparent": "b", "tracestate": "c"}) == {
        "traceparent": "b",
        "tracestate": "c",
    }
