"""Errors of the HTTP service: a status code and a message for the client, without paths or tracebacks."""

from collections.abc import Mapping

from fastapi.responses import Response
from pydantic_core import to_json

FAILED = "the service has failed; its log has the reason"


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status code, 400 or above.
        message: For the client: what is wrong, and what to do.
        headers: Further headers, such as Retry-After.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the answer: JSON with the key error."""
        return Response(to_json({"error": self.message}), self.status, self.headers, "application/json")
