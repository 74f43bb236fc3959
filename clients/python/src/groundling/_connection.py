"""The NATS connection: requests whose missing permissions are reported, and the JetStream API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from groundling.errors import (
    ConnectError,
    ConnectionClosedError,
    GroundlingError,
    PermissionDeniedError,
    RequestTimeoutError,
    StreamNotFoundError,
)

log = logging.getLogger("groundling")

# nats-py passes the server's errors on in lower case.
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)
_REJECTED = ("authorization violation", "authentication", "authorization failed", "user authentication")
# What nats-py raises while a connection breaks, beside `TimeoutError` (an `OSError` from Python 3.11 on).
_LOST = (ConnectionError, nats.errors.OutboundBufferLimitError, nats.errors.StaleConnectionError)
_STREAM_NOT_FOUND = 10059
_CONSUMER_NOT_FOUND = 10014
_MESSAGE_NOT_FOUND = 10037
_NO_LEADER = 10008


class ApiError(GroundlingError):
    """An error of the JetStream API."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} (error {code})")
        self.code = code
        self.description = description


class ConsumerNotFoundError(ApiError):
    """The consumer does not exist."""


class MessageNotFoundError(ApiError):
    """The stream has no such message."""


class NoRespondersError(GroundlingError):
    """Nothing is subscribed to the subject: no stream has it, or its leader is not elected yet."""


class Connection:
    """A connection that is reestablished for as long as it takes. `open` makes one."""

    def __init__(self, api_prefix: str, request_timeout: float) -> None:
        self._nats = Nats()
        self._api_prefix = api_prefix
        self._request_timeout = request_timeout
        self._watchers: dict[str, set[asyncio.Future[None]]] = {}
        self._inbox_denied: PermissionDeniedError | None = None
        self._connected = asyncio.Event()
        self._rejected = asyncio.Event()
        self._closing = False
        self._last_error: Exception | None = None
        #: Set if the server refused an acknowledgement.
        self.ack_denied: PermissionDeniedError | None = None
        #: How often the connection was lost. Requests sent before that may get no response.
        self.losses = 0

    @classmethod
    async def open(
        cls,
        servers: str | Sequence[str],
        *,
        user: str | None,
        password: str | None,
        token: str | None,
        nkey_seed_file: str | os.PathLike[str] | None,
        credentials_file: str | os.PathLike[str] | None,
        tls: ssl.SSLContext | None,
        tls_first: bool,
        inbox_prefix: str,
        api_prefix: str,
        name: str,
        connect_timeout: float,
        request_timeout: float,
    ) -> Connection:
        """Connects. Raises `ConnectError` if the credentials are rejected or no server accepts in time."""
        connection = cls(api_prefix, request_timeout)
        options: dict[str, Any] = {
            "servers": [servers] if isinstance(servers, str) else list(servers),
            "name": name,
            "user": user,
            "password": password,
            "token": token,
            "nkeys_seed": None if nkey_seed_file is None else os.fspath(nkey_seed_file),
            "user_credentials": None if credentials_file is None else os.fspath(credentials_file),
            "tls": tls,
            "tls_handshake_first": tls_first,
            "inbox_prefix": inbox_prefix,
            "error_cb": connection._on_error,
            "disconnected_cb": connection._on_disconnected,
            "reconnected_cb": connection._on_reconnected,
            # By default nats-py gives up after two minutes.
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 1,
        }
        connecting = asyncio.ensure_future(connection._nats.connect(**options))
        rejected = asyncio.ensure_future(connection._rejected.wait())
        try:
            await asyncio.wait({connecting, rejected}, timeout=connect_timeout, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done() and not connecting.cancelled():
                error = connecting.exception()
                if error is None:
                    connection._connected.set()
                    return connection
                raise ConnectError(f"cannot connect to NATS: {error}") from error
            what = (
                "the server rejected the credentials" if rejected.done() else f"no connection in {connect_timeout:g} s"
            )
            reason = connection._last_error
            raise ConnectError(f"cannot connect to NATS: {what}{f': {_plain(reason)}' if reason else ''}") from reason
        finally:
            rejected.cancel()
            if not connection._connected.is_set():
                connecting.cancel()
                await asyncio.wait({connecting})
                await connection._close_nats()

    @property
    def max_payload(self) -> int:
        """The largest message that the server accepts, in bytes, headers included."""
        return int(self._nats.max_payload)

    async def close(self) -> None:
        """Sends what is buffered and closes the connection."""
        self._closing = True
        if self._nats.is_connected:
            with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError, OSError):
                await self._nats.flush(timeout=5)
        await self._close_nats()

    async def _close_nats(self) -> None:
        try:
            await self._nats.close()
        except ConnectionError as error:
            # nats-py tries to send what is buffered also if the connection is lost.
            log.debug("NATS: %s", _plain(error))

    def check_open(self) -> None:
        """Raises `ConnectionClosedError` if the connection is closed for good."""
        if self._nats.is_closed:
            reason = f": {_plain(self._last_error)}" if self._last_error else ""
            raise ConnectionClosedError(f"the connection to NATS is closed{reason}")
        if self._inbox_denied is not None:
            raise self._inbox_denied

    async def wait_connected(self, timeout: float) -> None:
        """Waits while the connection is being reestablished. Raises `RequestTimeoutError` after `timeout` seconds."""
        self.check_open()
        if self._connected.is_set():
            return
        try:
            await asyncio.wait_for(self._connected.wait(), timeout)
        except asyncio.TimeoutError as error:
            reason = f": {_plain(self._last_error)}" if self._last_error else ""
            raise RequestTimeoutError(f"no connection to NATS for {timeout:.3g} s{reason}") from error

    async def request(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> bytes:
        """Publishes a message and returns the response.

        Raises `RequestTimeoutError`, `PermissionDeniedError`, `NoRespondersError` and `ConnectionClosedError`.
        """
        self.check_open()
        timeout = self._request_timeout if timeout is None else timeout
        denied = asyncio.get_running_loop().create_future()
        watchers = self._watchers.setdefault(subject.lower(), set())
        watchers.add(denied)
        sent = None if headers is None else dict(headers)
        request = asyncio.ensure_future(self._nats.request(subject, payload, timeout=timeout, headers=sent))
        try:
            await asyncio.wait({request, denied}, return_when=asyncio.FIRST_COMPLETED)
            if denied.done():
                raise self._inbox_denied or PermissionDeniedError(subject)
            return bytes((await request).data)
        except nats.errors.NoRespondersError as error:
            raise NoRespondersError(f"nothing responds on {subject}") from error
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
            raise ConnectionClosedError("the connection to NATS is closed") from error
        except _LOST as error:
            raise RequestTimeoutError(f"the connection to NATS was lost: {_plain(error)}") from error
        except asyncio.TimeoutError as error:
            reason = "" if self._connected.is_set() else " (not connected)"
            raise RequestTimeoutError(f"no response on {subject} in {timeout:.3g} s{reason}") from error
        finally:
            request.cancel()
            denied.cancel()
            watchers.discard(denied)
            if not watchers:
                self._watchers.pop(subject.lower(), None)

    async def api(self, operation: str, body: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        """A request to the JetStream API.

        Raises as `request` does, and `StreamNotFoundError`, `ConsumerNotFoundError`, `MessageNotFoundError` and
        `ApiError`.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        response = json.loads(await self.request(self.api_subject(operation), payload, timeout=timeout))
        if "error" in response:
            raise_api_error(response["error"])
        return response

    def api_subject(self, operation: str) -> str:
        """The subject of an operation of the JetStream API."""
        return f"{self._api_prefix}.{operation}"

    async def publish(self, operation: str, reply: str, body: Mapping[str, Any]) -> None:
        """A request to the JetStream API whose responses are delivered to the subject `reply`.

        Raises `RequestTimeoutError` if the connection was lost.
        """
        try:
            await self._nats.publish(self.api_subject(operation), json.dumps(body).encode(), reply=reply)
        except _LOST as error:
            raise RequestTimeoutError(f"the connection to NATS was lost: {_plain(error)}") from error

    def watch(self, operation: str, denied: Callable[[], None]) -> asyncio.Future[None]:
        """Calls `denied` if the server refuses a message to a subject of the API. `unwatch` ends it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: None if done.cancelled() else denied())
        self._watchers.setdefault(self.api_subject(operation).lower(), set()).add(future)
        return future

    def unwatch(self, future: asyncio.Future[None]) -> None:
        """Ends what `watch` began."""
        future.cancel()
        for watchers in self._watchers.values():
            watchers.discard(future)

    def new_inbox(self) -> str:
        """A subject for responses that nobody else uses."""
        return self._nats.new_inbox()

    async def subscribe(self, subject: str, receive: Callable[[Msg], None]) -> Subscription:
        """Calls `receive` for each message, without limits on waiting ones: a reader requests no more than it wants."""

        async def callback(message: Msg) -> None:
            receive(message)

        try:
            return await self._nats.subscribe(subject, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0)
        except _LOST as error:
            raise RequestTimeoutError(f"the connection to NATS was lost: {_plain(error)}") from error

    async def _on_error(self, error: Exception) -> None:
        text = str(error).lower()
        violation = _VIOLATION.search(text)
        if violation is None:
            self._last_error = error
            if any(word in text for word in _REJECTED):
                self._rejected.set()
            log.debug("NATS: %s", _plain(error))
            return
        operation, subject = violation.groups()
        log.debug("NATS: %s", _plain(error))
        if operation == "publish":
            if subject.startswith("$js.ack."):
                self.ack_denied = PermissionDeniedError("$JS.ACK.>")
            watchers = self._watchers.get(subject, set())
        else:
            # Without its inbox, no request of this connection gets a response.
            self._inbox_denied = PermissionDeniedError(subject, "subscribe to")
            watchers = {watcher for group in self._watchers.values() for watcher in group}
        for watcher in list(watchers):
            if not watcher.done():
                watcher.set_result(None)

    async def _on_disconnected(self) -> None:
        if self._connected.is_set() and not self._closing:
            log.warning("the connection to NATS was lost and is being reestablished")
        self._connected.clear()
        self.losses += 1

    async def _on_reconnected(self) -> None:
        log.info("reconnected to NATS")
        # The permissions may have changed.
        self._inbox_denied = self.ack_denied = None
        self._last_error = None
        self._connected.set()


def raise_api_error(error: Mapping[str, Any]) -> None:
    """Raises the exception for an error of the JetStream API."""
    code, description = int(error.get("err_code", error.get("code", 0))), str(error.get("description", ""))
    if code == _STREAM_NOT_FOUND:
        raise StreamNotFoundError("the stream does not exist; an administrator creates it with `groundling setup`")
    if code == _CONSUMER_NOT_FOUND:
        raise ConsumerNotFoundError(code, description)
    if code == _MESSAGE_NOT_FOUND:
        raise MessageNotFoundError(code, description)
    if code == _NO_LEADER:
        # It ends with an election, as if no server responded.
        raise RequestTimeoutError(f"the cluster has no leader: {description}")
    raise ApiError(code, description)


def seconds_left(deadline: float) -> float:
    """Seconds until a time of `time.monotonic`, at least 0."""
    return max(0.0, deadline - time.monotonic())


def _plain(error: Exception | None) -> str:
    return str(error).removeprefix("nats: ").strip("'") or repr(error)
