"""T1: an MLflow server that is absent, killed, hanging, refusing or full while the real `train` runs."""

import random
import signal
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from tests.faults.experiment import Experiment, Trial
from tests.faults.program import PROGRAM, run_program, wrong_ending
from tests.faults.tracked_scene import RUN, BrokenClaimError, Scene, require
from tests.runs.mlflow_server import MLflowServer, refusing_server, wait_until
from tests.runs.recorded import record_problem

_REQUIRED_SECONDS = 10
_WARM_EPOCHS = 20
_TURN_SECONDS = 8
_MOST_LINES = 3


def synced_later(scene: Scene) -> None:
    """Record a run that its store lacks: once, although it is done twice."""
    require("" if "recorded " in scene.sync() else "sync had nothing to send")
    scene.require_record()
    require("" if "nothing was sent" in scene.sync() else "the second sync sent something")
    scene.require_record()


def killed_for_good(scene: Scene) -> None:
    scene.server.start()
    scene.train()
    scene.reach(scene.chance.randint(3, 20))
    scene.server.kill()
    scene.end()
    scene.server.start()
    synced_later(scene)


def absent_at_the_start(scene: Scene) -> None:
    scene.train()
    scene.reach(scene.chance.randint(1, 15))
    scene.bring_back()
    scene.end()
    scene.require_record()


def killed_and_back(scene: Scene) -> None:
    scene.server.start()
    scene.train()
    first = scene.chance.randint(3, 10)
    scene.reach(first)
    scene.server.kill()
    scene.reach(first + 5)
    scene.bring_back()
    scene.end()
    scene.require_record()


def never_there(scene: Scene) -> None:
    scene.train()
    scene.end()
    scene.server.start()
    synced_later(scene)


def hanging_for_a_while(scene: Scene) -> None:
    scene.server.start()
    scene.train()
    first = scene.chance.randint(3, 10)
    scene.reach(first)
    scene.server.send(signal.SIGSTOP)
    scene.reach(first + 10)
    scene.server.send(signal.SIGCONT)
    scene.end()
    scene.require_record()


def hanging_for_good(scene: Scene) -> None:
    scene.server.start()
    scene.train()
    scene.reach(scene.chance.randint(3, 20))
    scene.server.send(signal.SIGSTOP)
    scene.end()
    scene.server.send(signal.SIGCONT)
    synced_later(scene)


def refusing_for_a_while(scene: Scene) -> None:
    scene.server.start()
    scene.train()
    first = scene.chance.randint(3, 8)
    scene.reach(first)
    scene.server.kill()
    with refusing_server(scene.server.port):
        scene.reach(first + 10)
    scene.bring_back()
    scene.end()
    scene.require_record()


def refusing_records_for_good(scene: Scene) -> None:
    """It says that it is well, and refuses everything else."""
    scene.server.start()
    scene.train()
    scene.reach(scene.chance.randint(3, 20))
    scene.server.kill()
    with refusing_server(scene.server.port, "/health"):
        scene.end()
    scene.server.start()
    synced_later(scene)


def full_disk(scene: Scene) -> None:
    scene.server.start()
    scene.train()
    scene.reach(scene.chance.randint(3, 20))
    scene.server.limit_files(scene.server.database.stat().st_size)
    scene.end()
    scene.server.limit_files(-1)
    if "record it later with" in scene.messages():  # there was room in the pages that the database had
        synced_later(scene)
    scene.require_record()


def sync_killed(scene: Scene) -> None:
    """`sync` is killed soon after it has begun the record, and then repeated."""
    scene.train()
    scene.end()
    scene.server.start()
    process = subprocess.Popen([*PROGRAM, *scene.sync_words()], cwd=scene.folder, stderr=subprocess.DEVNULL)
    wait_until(lambda: process.poll() is not None or num_runs(scene.server.database))
    time.sleep(scene.chance.uniform(0, 0.3))
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("sync had ended before it was killed")
    scene.sync()
    scene.require_record()
    require("" if "nothing was sent" in scene.sync() else "a third sync sent something")


def num_runs(database: Path) -> int:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def required_and_absent(scene: Scene) -> None:
    required(scene)


def required_and_hanging(scene: Scene) -> None:
    scene.server.start()
    scene.server.send(signal.SIGSTOP)
    required(scene)


def required(scene: Scene) -> None:
    """A run that requires its store is refused soon, and leaves nothing."""
    started = time.monotonic()
    words = (*RUN, f"tracking.uri={scene.server.uri}", "tracking.required=true")
    done = run_program(scene.folder, "train", *words)
    seconds = time.monotonic() - started
    require(wrong_ending(done.returncode, done.stderr, expected=1))
    require(f"it took {seconds:.1f} s" if seconds > _REQUIRED_SECONDS else "")
    lines = done.stderr.strip().splitlines()
    require(f"{len(lines)} lines: {done.stderr[:300]}" if len(lines) > _MOST_LINES else "")
    require("" if "tracking.required=false" in done.stderr else f"no way out: {done.stderr}")
    require("it left a run folder" if (scene.run / "best.ckpt").exists() else "")


def steps_while_away(scene: Scene) -> None:
    """The store hangs and responds by turns; epochs take as long, 5 % at most aside."""
    scene.epochs = 600
    scene.server.start()
    scene.train()
    scene.reach(_WARM_EPOCHS)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    while len(scene.seconds_of_epochs()) < scene.epochs - 100:
        for is_away in (True, False):
            first = len(scene.seconds_of_epochs())
            scene.server.send(signal.SIGSTOP if is_away else signal.SIGCONT)
            time.sleep(_TURN_SECONDS)
            seconds[is_away] += scene.seconds_of_epochs()[first + 1 :]
    scene.end()
    scene.require_record()
    away, present = (statistics.median(seconds[is_away]) for is_away in (True, False))
    require(f"an epoch takes {away:.3f} s, with the store {present:.3f} s" if away > 1.05 * present else "")


KINDS: dict[str, Callable[[Scene], None]] = {
    "absent at the start, back in mid-run": absent_at_the_start,
    "absent until after the end": never_there,
    "SIGKILL in mid-run, back after the end": killed_for_good,
    "SIGKILL in mid-run, back in mid-run": killed_and_back,
    "hanging for a while": hanging_for_a_while,
    "hanging until after the end": hanging_for_good,
    "500 for everything, for a while": refusing_for_a_while,
    "500 for every record until after the end": refusing_records_for_good,
    "disk full until after the end": full_disk,
    "sync killed": sync_killed,
    "absent, and required": required_and_absent,
    "hanging, and required": required_and_hanging,
    "hanging by turns, step time": steps_while_away,
}


def lose_stores(number: int, folder: Path) -> Iterator[Trial]:
    """Train `number` times, each time with the next kind of fault."""
    kinds = list(KINDS)
    for seed in range(number):
        kind = kinds[seed % len(kinds)]
        place = folder / str(seed)
        place.mkdir()
        scene = Scene(place, MLflowServer(place), random.Random(seed))
        try:
            KINDS[kind](scene)
            yield Trial(kind)
        except (BrokenClaimError, AssertionError, RuntimeError) as error:  # a fault that was not made is not survived
            yield Trial(kind, str(error))
        finally:
            scene.stop()


_DAMAGES = {
    "one point is missing": "DELETE FROM metrics WHERE rowid = (SELECT min(rowid) FROM metrics)",
    "one point is there twice": "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM "
    "metrics LIMIT 1",
    "one parameter is missing": "DELETE FROM params WHERE key = 'seed'",
    "one tag differs": "UPDATE tags SET value = 'x' WHERE key = 'git_commit'",
}


def lose_the_record(number: int, folder: Path) -> Iterator[Trial]:
    """Compare a record that was never completed, and complete ones that were damaged."""
    scene = Scene(folder, MLflowServer(folder), random.Random(0), epochs=2)
    database, files = folder / "mlflow.db", folder / "artifacts"
    try:
        scene.train()
        scene.end()
    finally:
        scene.stop()
    yield Trial("no sync", record_problem(database, files, scene.run))
    run_program(folder, "sync", "run", f"--tracking_uri=sqlite:///{database}")
    whole = database.read_bytes()
    for damage, statement in list(_DAMAGES.items())[: number - 1]:
        database.write_bytes(whole)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(statement)
        yield Trial(damage, record_problem(database, files, scene.run))


ABSENT_STORE = Experiment(
    row="T1",
    name="absent_store",
    claim="Training completes, and MLflow has each point, parameter, tag and file once as soon as it is back, or after "
    "sync; epochs take 5 % longer at most; where the store is required, the run is refused within 10 s.",
    run=lose_stores,
    short=2,
    full=26,
    control=lose_the_record,
)
