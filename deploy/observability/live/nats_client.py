"""A minimal NATS client: requests, with headers. Enough to publish to JetStream and to use its API."""

import itertools
import json
import socket


class Nats:
    """A connection to the server at 127.0.0.1:`port`. Raises `OSError` or `RuntimeError` if the server fails."""

    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._reader = self._socket.makefile("rb")
        self._ids = itertools.count(1)
        self._inbox = f"_INBOX.{self._socket.getsockname()[1]}"
        self._reader.readline()  # INFO
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1}
        self._send(f"CONNECT {json.dumps(options)}\r\nSUB {self._inbox}.* 1\r\n".encode())

    def publish(self, subject, payload, message_id):
        """Publishes to a stream and waits for its acknowledgement. Raises `RuntimeError` if the stream refuses."""
        headers = f"NATS/1.0\r\nNats-Msg-Id: {message_id}\r\n\r\n".encode()
        answer = json.loads(self._request(subject, payload, headers))
        if "error" in answer:
            raise RuntimeError(f"{subject}: {answer['error']['description']}")

    def api(self, operation, request=None):
        """Sends a request to the JetStream API and returns the answer."""
        payload = json.dumps(request).encode() if request is not None else b""
        answer = json.loads(self._request(f"$JS.API.{operation}", payload, None))
        if "error" in answer:
            raise RuntimeError(f"{operation}: {answer['error']['description']}")
        return answer

    def messages(self, stream):
        """The number of messages in a stream."""
        return self.api(f"STREAM.INFO.{stream}")["state"]["messages"]

    def _request(self, subject, payload, headers):
        reply = f"{self._inbox}.{next(self._ids)}"
        if headers is None:
            self._send(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")
        else:
            sizes = f"{len(headers)} {len(headers) + len(payload)}"
            self._send(f"HPUB {subject} {reply} {sizes}\r\n".encode() + headers + payload + b"\r\n")
        while True:
            to, answer = self._receive()
            if to == reply:
                return answer

    def _receive(self):
        while True:
            line = self._reader.readline()
            if not line:
                raise OSError("the NATS server closed the connection")
            words = line.decode().split()
            if words[0] == "PING":
                self._send(b"PONG\r\n")
            elif words[0] == "-ERR":
                raise RuntimeError(line.decode().strip())
            elif words[0] == "MSG":
                payload = self._reader.read(int(words[-1]) + 2)[:-2]
                return words[1], payload
            elif words[0] == "HMSG":
                content = self._reader.read(int(words[-1]) + 2)[:-2]
                if b" 503" in content.splitlines()[0]:
                    raise RuntimeError(f"no responders; is JetStream enabled? ({words[1]})")
                return words[1], content[int(words[-2]) :]

    def _send(self, data):
        self._socket.sendall(data)
