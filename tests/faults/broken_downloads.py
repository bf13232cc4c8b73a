"""D1: downloads that break, lie or stall, archives with more in them than they should have, and kills in between.

The function that all commands call for CIFAR's archives, in processes of its own, and real servers on this machine.
"""

import io
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from cifar10.constants import Archive
from tests.archive_server import CONTENT, FILES, Web, describe, pack, serve
from tests.faults.experiment import Experiment, Trial, sample
from tests.runs.test_checkpoints import Payload

_ROOT = Path(__file__).resolve().parents[2]
_NOWHERE = "http://127.0.0.1:1/tiny.tar.gz"
_OBTAIN = """
import json, sys
from pathlib import Path
from cifar10.constants import Archive
from cifar10.data.archives import obtain
from cifar10.data.download import Patience
from cifar10.errors import UserError
facts, root, *sources = sys.argv[1:]
facts = json.loads(facts)
facts["members"] = tuple(map(tuple, facts["members"]))
try:
    obtain(Archive(**facts), Path(root), sources, Patience(read=1.0, slowest=2e4, window=1.0, pause=0.01))
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
"""
_SECONDS = 120
_OTHER = CONTENT[:-1] + b"?"

Behaviour = dict[str, object]
"""Of a server: the fields of `Web`."""
_DOWN: Behaviour = {"status": 0}

BROKEN: dict[str, list[Behaviour]] = {
    **{f"cut at {cut:.0%}": [{"cuts": [cut]}] for cut in (0.1, 0.5, 0.99)},
    **{f"cut at {cut:.0%}, and then down": [{"cuts": [cut, 0, 0, 0]}, {}] for cut in (0.1, 0.5, 0.99)},
    "cut ten times": [{"cuts": [step / 11 for step in range(1, 11)]}],
    "cut, and the server knows no ranges": [{"cuts": [0.5], "knows_range": False}],
    "a mirror that is down": [_DOWN, {}],
    "all mirrors but the last down": [_DOWN, _DOWN, _DOWN, {}],
    **{f"status {status}": [{"status": status}, {}] for status in (403, 404, 429, 500, 503)},
    "another file of the same size": [{"content": _OTHER}, {}],
    "a page instead of the file": [{"content": b"<html>not found</html>"}, {}],
    "a file without end": [{"content": CONTENT + bytes(10**6), "headers": {"Content-Length": ""}}, {}],
    "the first half of another file": [{"content": b"?" + CONTENT[1:], "cuts": [0.5, 0, 0, 0]}, {}],
    "a range other than the wanted one": [{"cuts": [0.5], "headers": {"Content-Range": "bytes 0-1/2"}}, {}],
    "declared as compressed": [{"headers": {"Content-Encoding": "gzip"}}],
    "a server that stalls": [{"seconds_per_kilobyte": 3.0}, {}],
    "a slow server before a good one": [{"seconds_per_kilobyte": 0.1}, {}],
}
"""How the mirrors behave: the last one gives the archive in the end."""


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def _with_pickles() -> bytes:
    """Return an archive whose files, under the right names, are pickles that make a folder."""
    return pack({name: pickle.dumps(Payload(Path("canary").absolute())) for name in FILES})


POISONED: dict[str, Callable[[], bytes]] = {
    "a path that leads upwards": lambda: pack(FILES, extra=(_member("../evil"),)),
    "a path that leads upwards from its folder": lambda: pack(FILES, extra=(_member("batches/../../evil"),)),
    "an absolute path": lambda: pack(FILES, extra=(_member(f"{os.getcwd()}/evil"),)),
    "a link in the place of a file": lambda: pack(
        FILES, extra=(_member("batches/batch_1", tarfile.SYMTYPE, "/etc/passwd"),)
    ),
    "a link in the place of the folder": lambda: pack(FILES, extra=(_member("batches", tarfile.SYMTYPE, ".."),)),
    "a hard link": lambda: pack(FILES, extra=(_member("batches/batch_1", tarfile.LNKTYPE, "../../evil"),)),
    "a device": lambda: pack(FILES, extra=(_member("batches/batch_1", tarfile.CHRTYPE),)),
    "a pipe": lambda: pack(FILES, extra=(_member("batches/batch_1", tarfile.FIFOTYPE),)),
    "a further file": lambda: pack(FILES, extra=(_member("batches/evil"),)),
    "a file twice": lambda: pack(FILES, extra=(_member("batches/batch_1"),)),
}
"""Archives that hold more than the published files, in case that somebody publishes one."""
FORGED: dict[str, Callable[[], bytes]] = {
    "pickles with code": _with_pickles,
    "a file of other content": lambda: pack(FILES | {"batch_2": b"forged"}),
    "a file that is missing": lambda: pack({"batch_1": FILES["batch_1"]}),
    "another folder": lambda: pack(FILES, folder="others"),
    "no archive": lambda: random.Random(0).randbytes(1000),
    "an archive that ends early": lambda: CONTENT[: len(CONTENT) // 2],
    "an empty archive": lambda: pack({}),
}
"""Archives without the published files."""
_PROCESSES = ("four processes at once", "four processes, and one is killed")
_KILLS = 8
_ATTEMPTS = 50
OTHERS = (
    *("no network", "no network, with a copy in the folder", "a copy that is named", "a folder that can only be read"),
    *("a file where the folder should be", "a folder that is half there", *_PROCESSES),
    *(f"killed at {part / (_KILLS + 1):.0%} of the download" for part in range(1, _KILLS + 1)),
    *(f"killed while unpacking, {turn}" for turn in range(4)),
)
FAULTS = [
    *(f"mirrors: {kind}" for kind in BROKEN),
    *(f"published: {kind}" for kind in POISONED),
    *(f"{how}: {kind}" for kind in FORGED for how in ("published", "not the published one", "downloaded")),
    *OTHERS,
]


def break_downloads(number: int, folder: Path) -> Iterator[Trial]:
    """Make the faults, each in a folder of its own."""
    for position, fault in enumerate(sample(FAULTS, number)):
        place = folder / str(position)
        place.mkdir()
        os.chdir(place)
        yield Trial(fault, _problem(fault, place))
        shutil.rmtree(place)
    os.chdir(folder)


def _problem(fault: str, place: Path) -> str:
    group, _, kind = fault.partition(": ")
    if group == "mirrors":
        return _of_mirrors(BROKEN[kind], place / "data")
    if group == "published":
        return _of_archive({**POISONED, **FORGED}[kind](), place, is_good=kind in POISONED)
    if group == "not the published one":
        return _of_other_archive(FORGED[kind](), place)
    if group == "downloaded":
        return _of_mirrors([{"content": FORGED[kind]()}, {}], place / "data")
    if fault.startswith("killed"):
        return _of_kill(place / "data", at_unpacking="unpacking" in fault, position=OTHERS.index(fault))
    return _OTHER_PROBLEMS[fault](place / "data")


class Obtaining:
    """`obtain` in a process of its own."""

    def __init__(self, archive: Archive, root: Path, *sources: str) -> None:
        words = [sys.executable, "-c", _OBTAIN, json.dumps(asdict(archive)), str(root), *sources]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "HTTP_PROXY": "", "NO_PROXY": "*"}
        self.process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)

    def ended(self) -> tuple[int, str]:
        """Wait for it; return its exit code and stderr."""
        _, said = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, said


def _obtained(archive: Archive, root: Path, *sources: str) -> str:
    """Return what is wrong with a process that must have put the files in place."""
    return _of_success(*Obtaining(archive, root, *sources).ended(), root)


def _of_success(exit_code: int, said: str, root: Path) -> str:
    if exit_code or "Traceback" in said:
        return f"exit code {exit_code}: {said.strip()[-300:]}"
    return _of_files(root)


def _of_files(root: Path) -> str:
    """Return what is wrong with the folder: the published files must be there, and nothing else."""
    found = {path.name: path for path in (root / "batches").iterdir()} if (root / "batches").is_dir() else {}
    if found.keys() != FILES.keys():
        return f"the folder holds {sorted(found)}"
    if any(path.is_symlink() or not path.is_file() for path in found.values()):
        return "a file is a link or a device"
    if any(path.read_bytes() != FILES[name] for name, path in found.items()):
        return "a file has another content"
    others = {path.name for path in root.iterdir()} - {"batches", "tiny.tar.gz", ".batches.lock"}
    return f"{sorted(others)} was left" if others else _of_traces(root)


def _of_traces(root: Path) -> str:
    """Return what was written outside of the folder of the data."""
    traces = [path.name for path in root.parent.rglob("*") if "evil" in path.name or path.name == "canary"]
    return f"{traces[0]} was made" if traces else ""


def _of_refusal(exit_code: int, said: str, root: Path) -> str:
    """Return what is wrong with a process that must have refused, with a remedy."""
    errors = said[said.find("error: ") :].strip().splitlines() if "error: " in said else []
    if exit_code != 1 or "Traceback" in said:
        return f"exit code {exit_code}: {said.strip()[-300:]}"
    if not 1 <= len(errors) <= 3 or not any("data_loading." in line for line in errors):
        return f"{len(errors)} lines, or no remedy: {errors[:1]}"
    return "it is unpacked all the same" if (root / "batches").exists() else _of_traces(root)


def _of_mirrors(behaviours: list[Behaviour], root: Path) -> str:
    with ExitStack() as stack:
        webs = [stack.enter_context(serve(**each)) if each is not _DOWN else Web(url=_NOWHERE) for each in behaviours]
        if problem := _obtained(describe(CONTENT, *[web.url for web in webs]), root):
            return problem
        return "" if len(webs[-1].requests) <= 11 else f"{len(webs[-1].requests)} requests to the last mirror"


def _of_archive(content: bytes, place: Path, is_good: bool) -> str:
    """Somebody publishes this archive with its SHA-256; the MD5 of its files are known."""
    root = place / "deep" / "data"
    root.mkdir(parents=True)
    with serve(content=content) as web:
        exit_code, said = Obtaining(describe(content, web.url), root).ended()
    return _of_success(exit_code, said, root) if is_good else _of_refusal(exit_code, said, root)


def _of_other_archive(content: bytes, place: Path) -> str:
    """The file of the right name in the folder is another archive."""
    root = place / "deep" / "data"
    root.mkdir(parents=True)
    (root / "tiny.tar.gz").write_bytes(content)
    return _of_refusal(*Obtaining(describe(CONTENT, _NOWHERE), root).ended(), root)


def _of_kill(root: Path, at_unpacking: bool, position: int) -> str:
    """Kill it while it downloads or unpacks, in another folder if it had ended before; the next process goes on."""
    for attempt in range(_ATTEMPTS):
        problem = _of_one_kill(root / str(attempt), at_unpacking, position)
        if problem is not None:
            return problem
    raise RuntimeError(f"it had ended {_ATTEMPTS} times before it was killed")


def _of_one_kill(root: Path, at_unpacking: bool, position: int) -> str | None:
    """Return what is wrong after a kill, None if it had ended before."""
    with serve(seconds_per_kilobyte=0.01) as web:
        archive = describe(CONTENT, web.url)
        first = Obtaining(archive, root)
        part = root / "tiny.tar.gz.part"
        if at_unpacking:
            _wait(lambda: any(root.glob(".unpacking-*")), first)
        else:
            share = (position - OTHERS.index("killed at 11% of the download") + 1) / (_KILLS + 1)
            _wait(lambda: part.exists() and part.stat().st_size >= share * len(CONTENT), first)
        have = part.stat().st_size if part.exists() else 0
        first.process.send_signal(signal.SIGKILL)
        exit_code, _ = first.ended()
        if exit_code != -signal.SIGKILL:
            return None
        if problem := _obtained(archive, root):
            return problem
        again = web.requests[1:]
    if at_unpacking:
        return f"{len(again)} further requests" if again else ""
    [wanted] = again
    return "" if wanted and int(wanted[6:-1]) >= have else f"it asked for {wanted}, and had {have} bytes"


def _wait(condition: Callable[[], bool], process: Obtaining) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition() and process.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)


def _offline(root: Path) -> str:
    exit_code, said = Obtaining(describe(CONTENT, _NOWHERE, "http://nowhere.invalid/tiny.tar.gz"), root).ended()
    return _of_refusal(exit_code, said, root) or ("" if "no connection" in said else f"no reason: {said[-200:]}")


def _copy_in_folder(root: Path) -> str:
    root.mkdir()
    (root / "tiny.tar.gz").write_bytes(CONTENT)
    return _obtained(describe(CONTENT, _NOWHERE), root)


def _named_copy(root: Path) -> str:
    copy = root.parent / "copy.tgz"
    copy.write_bytes(CONTENT)
    return _obtained(describe(CONTENT, _NOWHERE), root, str(copy))


def _read_only(root: Path) -> str:
    _write(root / "batches", FILES)
    root.chmod(0o555)
    before = sorted(root.rglob("*"))
    try:
        problem = _obtained(describe(CONTENT, _NOWHERE), root)
    finally:
        root.chmod(0o755)
    return problem or ("" if sorted(root.rglob("*")) == before else "it was written to")


def _no_folder(root: Path) -> str:
    root.write_bytes(b"")
    return _of_refusal(*Obtaining(describe(CONTENT, _NOWHERE), root).ended(), root)


def _half_there(root: Path) -> str:
    _write(root / "batches", {"batch_1": FILES["batch_1"][:1000]})
    with serve() as web:
        return _obtained(describe(CONTENT, web.url), root)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _at_once(root: Path, is_one_killed: bool = False) -> str:
    with serve(seconds_per_kilobyte=0.005) as web:
        archive = describe(CONTENT, web.url)
        processes = [Obtaining(archive, root) for _ in range(4)]
        if is_one_killed:
            _wait((root / "tiny.tar.gz.part").exists, processes[0])
            processes[0].process.kill()
        ended = [process.ended() for process in processes]
    survivors = ended[1:] if is_one_killed else ended
    problems = [problem for each in survivors if (problem := _of_success(*each, root))]
    most = 2 if is_one_killed else 1
    return (problems or [f"{len(web.requests)} downloads" if len(web.requests) > most else ""])[0]


_OTHER_PROBLEMS: dict[str, Callable[[Path], str]] = {
    "no network": _offline,
    "no network, with a copy in the folder": _copy_in_folder,
    "a copy that is named": _named_copy,
    "a folder that can only be read": _read_only,
    "a file where the folder should be": _no_folder,
    "a folder that is half there": _half_there,
    _PROCESSES[0]: _at_once,
    _PROCESSES[1]: lambda root: _at_once(root, is_one_killed=True),
}


def unpack_trustfully(number: int, folder: Path) -> Iterator[Trial]:
    """Unpack the archives as they are: the same checks notice it."""
    plain = [kind for kind in {**POISONED, **FORGED} if kind != "a pipe"]  # writing to it would not end
    for position, kind in enumerate(sample(plain, number, seed=3)):
        root = folder / str(position) / "data"
        root.mkdir(parents=True)
        os.chdir(root.parent)
        content = io.BytesIO({**POISONED, **FORGED}[kind]())
        with suppress(OSError, KeyError, tarfile.TarError), tarfile.open(fileobj=content) as archive:
            archive.extractall(root, filter="fully_trusted")
        yield Trial(kind, _of_files(root))
    os.chdir(folder)


BROKEN_DOWNLOADS = Experiment(
    row="D1",
    name="broken_downloads",
    claim="The download goes on or comes from the next mirror, once for all processes; nothing is unpacked before its "
    "SHA-256 is right, nothing but the published files afterwards; a refusal has a remedy.",
    run=break_downloads,
    short=6,
    full=len(FAULTS),
    control=unpack_trustfully,
)
