from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cifar10.data.download import Pace, Patience, SourceFailed, download
from tests.archive_server import CONTENT, serve

SIZE = len(CONTENT)
PATIENT = Patience(pause=0.01)


def fetch(url: str, part: Path, patience: Patience = PATIENT, is_last: bool = True) -> None:
    download(url, part, SIZE, patience, is_last)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "tiny.tar.gz.part"


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_broken_connection_is_taken_up_where_it_broke(part: Path, cut: float) -> None:
    with serve(cuts=[cut]) as web:
        fetch(web.url, part)
    assert part.read_bytes() == CONTENT
    assert web.requests == [None, f"bytes={int(SIZE * cut)}-"]


def test_an_attempt_that_brings_nothing_is_followed_by_another(part: Path) -> None:
    with serve(cuts=[0, 0, 0.5, 0, 0]) as web:
        fetch(web.url, part)
    assert part.read_bytes() == CONTENT
    assert len(web.requests) == 6


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_part_of_an_earlier_process_is_kept(part: Path, cut: float) -> None:
    part.write_bytes(CONTENT[: int(SIZE * cut)])
    with serve() as web:
        fetch(web.url, part)
    assert part.read_bytes() == CONTENT
    assert web.requests == [f"bytes={int(SIZE * cut)}-"]


def test_server_without_ranges_sends_all_again(part: Path) -> None:
    with serve(knows_range=False, cuts=[0.5]) as web:
        fetch(web.url, part)
    assert part.read_bytes() == CONTENT


def test_whole_part_asks_nobody(part: Path) -> None:
    part.write_bytes(CONTENT)
    fetch("http://127.0.0.1:1/", part)


def test_part_that_is_too_long_starts_anew(part: Path) -> None:
    part.write_bytes(b"x" * (SIZE + 1))
    with serve() as web:
        fetch(web.url, part)
    assert part.read_bytes() == CONTENT


def test_range_other_than_asked_for_is_refused(part: Path) -> None:
    part.write_bytes(CONTENT[:1000])
    with (
        serve(headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"}) as web,
        pytest.raises(SourceFailed, match=rf"sends bytes 0.* instead of bytes 1000-{SIZE - 1}/{SIZE}"),
    ):
        fetch(web.url, part)
    assert part.read_bytes() == CONTENT[:1000]


def test_archive_declared_as_content_encoding_is_not_decoded(part: Path) -> None:
    with serve(headers={"Content-Encoding": "gzip"}) as web:
        fetch(web.url, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ({"status": 404}, "responds with 404"),
        ({"status": 503}, "responds with 503"),
        ({"content": b"<html>gone</html>"}, "has a file of 17 bytes"),
        ({"content": CONTENT + b"!", "headers": {"Content-Length": ""}}, "sends more than"),
        ({"cuts": [0, 0, 0]}, "the connection broke"),
    ],
)
def test_useless_answer_is_told_in_words(part: Path, behaviour: dict[str, object], reason: str) -> None:
    with serve(**behaviour) as web, pytest.raises(SourceFailed, match=reason):
        fetch(web.url, part)


@pytest.mark.parametrize(
    ("url", "reason"), [("http://127.0.0.1:1/x", "no connection"), ("http://nowhere.invalid/x", "no connection")]
)
def test_unreachable_server_is_told_in_words(part: Path, url: str, reason: str) -> None:
    with pytest.raises(SourceFailed, match=reason):
        fetch(url, part)


def test_stalled_server_is_left_and_the_part_kept(part: Path) -> None:
    part.write_bytes(CONTENT[:1000])  # a busy machine may take longer than the patience even to begin an answer
    with serve(seconds_per_kilobyte=1) as web, pytest.raises(SourceFailed, match="stalled"):
        fetch(web.url, part, Patience(read=0.3))
    kept = part.read_bytes()
    assert len(kept) >= 1000 and CONTENT.startswith(kept)


@pytest.mark.slow
def test_slow_server_is_left_while_another_is_there(part: Path) -> None:
    demanding = Patience(slowest=1e6, window=0.2)
    with serve(seconds_per_kilobyte=0.005) as web:
        with pytest.raises(SourceFailed, match="slower than 1000 kB/s"):
            fetch(web.url, part, demanding, is_last=False)
        kept = part.read_bytes()
        assert kept and CONTENT.startswith(kept)
        fetch(web.url, part, demanding, is_last=True)
    assert part.read_bytes() == CONTENT


def test_pace_forgets_what_is_older_than_its_window() -> None:
    clock = iter([0.0, 5.0, 10.0, 15.0, 20.0])
    pace = Pace(10, lambda: next(clock))
    rates = [pace.rate(reached) for reached in (0, 500, 1000, 1050, 1100)]
    assert rates == [float("inf"), float("inf"), 100.0, 55.0, 10.0]


def test_progress_goes_to_stderr_as_lines(
    part: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar10.data.download.SECONDS_BETWEEN_LINES", 0)
    with serve() as web:
        fetch(web.url, part)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith(f"tiny.tar.gz from {urlsplit(web.url).netloc}: 0.2 of 0.2 MB, ")
