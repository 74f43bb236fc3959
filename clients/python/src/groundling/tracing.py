"""Trace contexts in message headers, as the W3C defines them: `traceparent` and `tracestate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

#: Servers up to 2.13 that trace a message rename its `traceparent` to `Xraceparent`.
_READ_NAMES = {
    "traceparent": "traceparent",
    "xraceparent": "traceparent",
    "tracestate": "tracestate",
    "xracestate": "tracestate",
}


def current_context() -> dict[str, str]:
    """The headers of OpenTelemetry's current span. Empty without one, or if the program does not use OpenTelemetry."""
    if "opentelemetry" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


def read_context(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The trace context of a message, with the names in lower case. `traceparent` counts before `Xraceparent`."""
    context: dict[str, str] = {}
    for name, value in sorted((headers or {}).items(), key=lambda header: header[0].lower().startswith("x")):
        read = _READ_NAMES.get(name.lower())
        if read is not None:
            context.setdefault(read, value)
    return context
