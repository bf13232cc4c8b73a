"""Middleware in front of the service: who may ask, how much, how many at once, and for how long.

It reads the whole body of a request, within the limits, before the application sees the request: what is refused costs
next to nothing, and no client can hold a place with a body that does not arrive.
"""

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from cifar10.config.serving_settings import ServingSettings
from cifar10.serving.http.errors import FAILED, RequestError
from cifar10.serving.http.metrics import Metrics

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

PROBES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Paths that anybody may ask for, at any time: by orchestrators."""
_KNOWN = PROBES | {"/predict", "/model", "/metrics", "/docs", "/openapi.json"}
_BEARER = re.compile(rb"\Abearer +", re.IGNORECASE)
_CLOSE = {"connection": "close"}
_LOG = logging.getLogger("cifar10.serving")


class Guard:
    """An ASGI application that passes requests within the limits on to another one.

    Args:
        application: Gets requests whose whole body is there.
        settings: The limits.
        api_key: What clients must send; None: nothing.
        metrics: Counts requests.
    """

    def __init__(
        self, application: Application, settings: ServingSettings, api_key: str | None, metrics: Metrics
    ) -> None:
        self._application = application
        self._settings = settings
        self._key = None if api_key is None else api_key.encode()
        self._metrics = metrics
        self._num_pending = 0
        metrics.pending.set(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET, whose body the server leaves out
            scope = {**scope, "method": "GET"}
        started, status = time.perf_counter(), 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._guarded(scope, receive, observed)
        except RequestError as error:
            await error.response()(scope, receive, observed)
        except Exception:
            _LOG.exception("a request failed")
            if not status:
                await RequestError(500, FAILED).response()(
                    scope,
                    receive,
                    observed,
                )
        finally:
            route = _route(scope["path"])
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await self._application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        self._require_key(headers)
        if scope["method"] in ("GET", "OPTIONS"):
            await self._application(scope, _received(b""), send)
            return
        if self._num_pending >= self._settings.max_pending:
            retry = {"retry-after": str(self._settings.retry_seconds)}
            raise RequestError(503, "too many requests at once; send it again a little later", retry)
        self._num_pending += 1
        self._metrics.pending.inc()
        try:
            body = await self._body(headers, receive)
            await self._application(scope, _received(body), send)
        finally:
            self._num_pending -= 1
            self._metrics.pending.dec()

    def _require_key(self, headers: dict[bytes, bytes]) -> None:
        if self._key is None:
            return
        given = headers.get(b"x-api-key") or _BEARER.sub(b"", headers.get(b"authorization", b""))
        if not hmac.compare_digest(given, self._key):
            advice = "an API key is needed: X-API-Key: KEY, or Authorization: Bearer KEY"
            raise RequestError(401, advice, {"www-authenticate": "Bearer", "connection": "close"})

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            RequestError: It is too large, does not arrive in time, or ends within.
        """
        settings, limit = self._settings, self._settings.max_body
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise self._too_large()
        parts, size = [], 0
        loop = asyncio.get_running_loop()
        end = loop.time() + settings.body_seconds
        try:
            async with asyncio.timeout_at(min(end, loop.time() + settings.idle_seconds)) as timeout:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError(400, "the body ends too early, or its chunks cannot be read", _CLOSE)
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise self._too_large()
                    parts.append(part)
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
                    timeout.reschedule(min(end, loop.time() + settings.idle_seconds))
        except TimeoutError:
            raise RequestError(408, "the body did not arrive in time", _CLOSE) from None

    def _too_large(self) -> RequestError:
        message = f"the body is larger than {self._settings.max_body_mb:g} MB; send fewer or smaller images at a time"
        return RequestError(413, message, _CLOSE)


def _received(body: bytes) -> Receive:
    """Return a `receive` that yields `body` whole, and then waits for ever, as for a client that stays."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    return receive


def _route(path: str) -> str:
    """Return the path for metrics, where anything unknown has one name."""
    if path in _KNOWN:
        return path
    if path.startswith("/v2/models/"):
        return "/v2/models/infer" if path.endswith("/infer") else "/v2/models"
    return "/v2" if path == "/v2" else "other"
