"""Jobs: what is submitted, what is refused, and the ids."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import servers

from groundling import BeamSearch, EarlyStopping, GenerationOptions, InvalidJobError, Job, Picture, S3Object, tasks
from groundling.jobs import message_id

PICTURE = S3Object("imgs", "a/b.jpg")
TASKS = [tasks.BriefCaption(task_id="brief"), tasks.PhraseGrounding("a cat", task_id="cat")]


def stored(name: str) -> bytes:
    """Bytes that the Rust crate `wire` is tested with."""
    source = (servers.ROOT / "crates/wire/tests/stored_bytes.rs").read_text()
    found = re.search(rf'const {name}: &str =\s*"([^"]*)"', source)
    assert found is not None
    return bytes.fromhex(re.sub(r"[\\\s]", "", found[1]))


def test_a_job_has_the_bytes_that_other_clients_write() -> None:
    message = Job("cats", PICTURE, TASKS, job_id="job-1").to_message()
    assert message.SerializeToString(deterministic=True) == stored("PLAIN_JOB")


def test_every_kind_of_task_has_the_bytes_that_other_clients_write() -> None:
    cat = tasks.Patches(0, 33)
    job = Job(
        "日本",
        S3Object("archive.2024", "2024/beach ☃.webp", version_id="v1", etag='"0123"'),
        [
            tasks.DetailedCaption(task_id="detailed"),
            tasks.Question("What is the cat doing?", task_id="question"),
            tasks.ReferringExpressionComprehension("the cat next to the window", task_id="find"),
            tasks.ReferringExpressionGeneration(
                [tasks.Patches(0, 1023), tasks.Fractions(0.1, 0.2, 0.5, 0.9)], task_id="describe"
            ),
            tasks.Raw("<grounding><phrase>a cat</phrase> and <phrase>a dog</phrase>", [[cat], []], task_id="raw"),
            tasks.TextScoring(
                "<phrase> a cat</phrase>",
                prompt="<grounding> An image of",
                phrase_boxes=[[tasks.Fractions(0, 0, 1, 0)]],
                with_end=True,
                task_id="score",
            ),
        ],
        labels={"camera": "7"},
        job_id="größe#7",
        options=GenerationOptions(
            max_new_tokens=64,
            no_repeat_ngram_size=3,
            repetition_penalty=1.25,
            well_formed=False,
            beam_search=BeamSearch(num_beams=4, length_penalty=-0.5, early_stopping=EarlyStopping.EARLY_STOPPING_NEVER),
        ),
    )
    assert job.to_message().SerializeToString(deterministic=True) == stored("FULL_JOB")


def test_tasks_without_an_id_get_one_from_their_kind() -> None:
    unnamed = [tasks.BriefCaption(), tasks.Question("Where?"), tasks.Question("Who?")]
    message = Job("cats", PICTURE, unnamed).to_message()
    assert [task.task_id for task in message.tasks] == ["brief_caption", "question", "question-2"]


def test_the_same_job_has_the_same_ids_and_any_other_has_others() -> None:
    def ids(**changes: object) -> tuple[str, str]:
        arguments = {"dataset": "cats", "picture": PICTURE, "tasks": TASKS} | changes
        message = Job(**arguments).to_message()  # type: ignore[arg-type]
        return message.job_id, message_id(message)

    job_id, submitted = ids()
    assert (job_id, submitted) == ids()
    # Labels are part of no id.
    assert (job_id, submitted) == ids(labels={"camera": "7"})
    others = [
        ids(dataset="dogs"),
        ids(picture=S3Object("imgs", "a/c.jpg")),
        ids(picture=S3Object("imgs", "a/b.jpg", etag="0123")),
        ids(picture=b"bytes"),
        ids(tasks=TASKS[:1]),
        ids(options=GenerationOptions(max_new_tokens=9)),
    ]
    assert len({job_id, *(other[0] for other in others)}) == 1 + len(others)
    assert len({submitted, *(other[1] for other in others)}) == 1 + len(others)
    # A job id of the submitter's does not hide another dataset or other tasks.
    own = [ids(job_id="42"), ids(job_id="42", dataset="dogs"), ids(job_id="42", tasks=TASKS[:1])]
    assert [job_id for job_id, _ in own] == ["42"] * 3
    assert len({submitted for _, submitted in own}) == 3


def test_pictures_are_objects_files_or_bytes(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"picture")
    local: list[Picture] = [file, str(file), b"picture"]
    for picture in local:
        assert Job("cats", picture, TASKS).to_message().inline == b"picture"
    stored: list[Picture] = ["s3://imgs/a/b%20c?d.jpg", S3Object("imgs", "a/b%20c?d.jpg")]
    for picture in stored:
        message = Job("cats", picture, TASKS).to_message()
        # Nothing in a key is decoded.
        assert (message.s3.bucket, message.s3.key) == ("imgs", "a/b%20c?d.jpg")
    with pytest.raises(FileNotFoundError):
        Job("cats", "missing.jpg", TASKS).to_message()


@pytest.mark.parametrize("dataset", ["", "a.b", "a b", "*", ">", "a\n", "a\u00a0b", "x" * 129])
def test_a_dataset_that_is_not_one_token_of_a_subject_is_refused(dataset: str) -> None:
    with pytest.raises(InvalidJobError, match="dataset"):
        Job(dataset, PICTURE, TASKS).to_message()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"job_id": ""}, "job id"),
        ({"job_id": "x" * 257}, "job id"),
        ({"tasks": []}, "0 tasks"),
        ({"tasks": [tasks.BriefCaption()] * 65}, "65 tasks"),
        ({"tasks": [tasks.BriefCaption(task_id="a"), tasks.DetailedCaption(task_id="a")]}, "unique"),
        ({"tasks": [tasks.BriefCaption(task_id="")]}, "task ids"),
        ({"picture": b""}, "empty"),
        ({"picture": "https://example.org/a.jpg"}, "s3://"),
        ({"picture": "s3://bucket"}, "s3://BUCKET/KEY"),
        ({"picture": S3Object("a bucket", "key")}, "bucket"),
        ({"picture": S3Object("bucket", "x" * 1025)}, "key"),
        ({"labels": {str(number): "" for number in range(65)}}, "65 labels"),
        ({"labels": {"name": "x" * 4097}}, "too long"),
    ],
)
def test_a_job_that_breaks_a_rule_is_refused(change: dict[str, object], problem: str) -> None:
    arguments: dict[str, object] = {"dataset": "cats", "picture": PICTURE, "tasks": TASKS}
    with pytest.raises(InvalidJobError, match=problem):
        Job(**(arguments | change)).to_message()  # type: ignore[arg-type]
