"""A vulnerability service on this machine, with the interface of https://osv.dev."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KNOWN_FOR_YEARS = ("jinja2", "2.11.2", "PYSEC-2021-66", ("CVE-2020-28493",), "2.11.3")

Advisory = tuple[str, str, str, Sequence[str], str]
"""Package, version, id, other ids, first fixed version or ""."""


@dataclass
class Service:
    """What the service knows, and what it was asked."""

    advisories: Sequence[Advisory]
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    answers_until_request: int = 1_000_000
    """The later ones fail with 503."""
    page: bytes | None = None
    """Returned instead of each answer, as a network with a log-in page does."""

    def answer(self, query: Mapping[str, object]) -> dict[str, object]:
        """Return the vulnerabilities of one package, as OSV does."""
        package = query["package"]
        assert isinstance(package, dict)
        name, version = str(package["name"]), str(query["version"])
        self.asked.append((name, version))
        found = [record(advisory) for advisory in self.advisories if advisory[:2] == (name, version)]
        return {"vulns": found} if found else {}


def record(advisory: Advisory) -> dict[str, object]:
    """Return an advisory in OSV's schema."""
    name, _, identifier, aliases, fixed = advisory
    events = [{"introduced": "0"}, *([{"fixed": fixed}] if fixed else [])]
    package = {"name": name, "ecosystem": "PyPI"}
    affected = [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}]}]
    return {"id": identifier, "aliases": list(aliases), "summary": "harm", "affected": affected}


@contextmanager
def serve(*advisories: Advisory, knows_the_old: bool = True, **behaviour: object) -> Iterator[Service]:
    """Run a service that knows the advisories, and the one by which scripts/check_vulnerabilities tests it."""
    service = Service([*advisories, *([KNOWN_FOR_YEARS] if knows_the_old else [])], **behaviour)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(service.answer(query)).encode() if service.page is None else service.page
            self.send_response(200 if len(service.asked) <= service.answers_until_request else 503)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}/v1/query"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
