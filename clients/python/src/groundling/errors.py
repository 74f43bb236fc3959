"""The exceptions of the package. All derive from `GroundlingError`."""

from __future__ import annotations


class GroundlingError(Exception):
    """The base of all exceptions of this package."""


class ConnectError(GroundlingError):
    """No NATS server accepted the connection in time, or the server rejected the credentials."""


class ConnectionClosedError(GroundlingError):
    """The connection is closed: by `close`, or by the server."""


class PermissionDeniedError(GroundlingError):
    """The NATS user may not use a subject."""

    def __init__(self, subject: str, operation: str = "publish to") -> None:
        super().__init__(
            f'the NATS user is not allowed to {operation} "{subject}"; docs/security.md lists the permissions'
        )
        #: The subject that the server named or that was used.
        self.subject = subject


class StreamNotFoundError(GroundlingError):
    """A stream of Groundling does not exist, or JetStream is off."""


class RequestTimeoutError(GroundlingError, TimeoutError):
    """The server did not respond in time."""


class InvalidJobError(GroundlingError, ValueError):
    """A job breaks a rule of the protocol. It was not submitted."""


class JobTooLargeError(InvalidJobError):
    """The job with its inline picture exceeds what the jobs stream accepts. It was not submitted."""


class SubmitError(GroundlingError):
    """The jobs stream did not accept a job."""


class StreamFullError(SubmitError):
    """The jobs stream is full and refused the job. Submit it again later."""


class SubmitTimeoutError(SubmitError, TimeoutError):
    """The jobs stream did not acknowledge the job in time. It may or may not be stored: submit it again with the same
    arguments, and the stream drops the second one if the first one was stored."""


class ReadError(GroundlingError):
    """A stream could not be read."""


class ReadTimeoutError(ReadError, TimeoutError):
    """No message arrived within the reader's `timeout`. The reader can still be used."""


class ReaderConflictError(ReadError):
    """A durable reader with this name exists and reads something else."""


class UndecodableMessageError(ReadError):
    """A message of the stream is not of the expected type. The reader can still be used and continues after it; to a
    durable reader it is not delivered again. For the page after it, pass `after=error.sequence`."""

    def __init__(self, subject: str, sequence: int) -> None:
        super().__init__(f"message {sequence} ({subject}) cannot be decoded")
        #: The subject of the message.
        self.subject = subject
        #: The sequence of the message in its stream.
        self.sequence = sequence
