"""Publishing jobs to their stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundling._connection import Connection, NoRespondersError, seconds_left
from groundling.errors import (
    JobTooLargeError,
    RequestTimeoutError,
    StreamFullError,
    StreamNotFoundError,
    SubmitError,
    SubmitTimeoutError,
)

JOBS = "groundling.jobs."

#: The first and last line of the headers.
_HEADER_BYTES = len("NATS/1.0\r\n\r\n")
#: One attempt to publish a job, before it is sent again with the same id.
_ATTEMPT_TIMEOUT = 5.0
#: For this long, a missing stream may be one whose leader is not elected yet.
_ELECTION = 5.0
_ELECTION_POLL = 0.2
_FULL_DELAYS = (0.1, 2.0)
# Error codes of the server.
_MESSAGE_TOO_LARGE = 10054
_STORE_FAILED = 10077
_OUT_OF_STORAGE = (10002, 10023, 10028, 10047)


@dataclass(frozen=True)
class Submission:
    """A job that the jobs stream has acknowledged. It ends as one annotation or one failure."""

    dataset: str
    job_id: str
    #: The sequence in the jobs stream.
    sequence: int
    #: Whether the stream had the same job already, within its duplicate window (30 minutes by default), and dropped
    #: this one. Also true if an earlier attempt of the same call was stored without an acknowledgement.
    duplicate: bool


@dataclass(frozen=True)
class EncodedJob:
    """A job as it is published."""

    dataset: str
    job_id: str
    content: bytes
    #: The `Nats-Msg-Id`.
    message_id: str


async def publish(
    connection: Connection,
    stream: str,
    job: EncodedJob,
    *,
    trace_context: Mapping[str, str],
    timeout: float,
    wait_while_full: float,
) -> Submission:
    """Publishes a job until the stream has acknowledged it. `Client.submit` describes times and errors."""
    subject = f"{JOBS}{job.dataset}"
    headers = {**trace_context, "Nats-Msg-Id": job.message_id, "Nats-Expected-Stream": stream}
    # The server closes the connection of a client that sends more.
    header_bytes = _HEADER_BYTES + sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    if len(job.content) + header_bytes > connection.max_payload:
        raise _too_large(job)
    begun = time.monotonic()
    deadline = begun + timeout
    delay, longest_delay = _FULL_DELAYS
    while True:
        try:
            await connection.wait_connected(seconds_left(deadline))
            attempt = max(0.001, min(_ATTEMPT_TIMEOUT, seconds_left(deadline)))
            response = json.loads(await connection.request(subject, job.content, headers=headers, timeout=attempt))
        except RequestTimeoutError as error:
            if time.monotonic() < deadline:
                continue
            raise SubmitTimeoutError(
                f"job {job.job_id!r} was not acknowledged in {timeout:g} s and may or may not be stored: {error}"
            ) from error
        except NoRespondersError as error:
            if time.monotonic() + _ELECTION_POLL < min(deadline, begun + _ELECTION):
                await asyncio.sleep(_ELECTION_POLL)
                continue
            raise StreamNotFoundError(
                f"no stream accepts {subject}; an administrator creates it with `groundling setup`"
            ) from error
        if "error" not in response:
            duplicate = bool(response.get("duplicate", False))
            return Submission(job.dataset, job.job_id, int(response["seq"]), duplicate)
        refusal = _refusal(job, response["error"])
        if not isinstance(refusal, StreamFullError) or time.monotonic() + delay > begun + wait_while_full:
            raise refusal
        await asyncio.sleep(delay)
        delay = min(2 * delay, longest_delay)
        # The stream responds, so only the next attempts count.
        deadline = time.monotonic() + timeout


def _refusal(job: EncodedJob, error: Mapping[str, Any]) -> Exception:
    code, description = int(error.get("err_code", 0)), str(error.get("description", ""))
    if code == _MESSAGE_TOO_LARGE:
        return _too_large(job)
    if code in _OUT_OF_STORAGE or (code == _STORE_FAILED and description.startswith("maximum")):
        return StreamFullError(
            f"the jobs stream is full and refused job {job.job_id!r} ({description}); submit it later"
        )
    return SubmitError(f"the jobs stream refused job {job.job_id!r}: {description} (error {code})")


def _too_large(job: EncodedJob) -> JobTooLargeError:
    return JobTooLargeError(
        f"job {job.job_id!r} has {len(job.content)} bytes, more than the jobs stream accepts in a message;"
        " upload the picture to the S3 store and submit its s3:// address"
    )
