"""S3: the model of a running HTTP service is replaced, and the service is killed and started again, under load."""

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults.answers import PICTURES, Answers, Expected, asking, probabilities_of
from tests.faults.experiment import Experiment, Trial
from tests.faults.program import run_program, wrong_ending
from tests.runs.mlflow_server import wait_until
from tests.serving.http.overload import head
from tests.serving.http.serving_process import Served, free_port, received, serving, wait_until_ready
from tests.tiny_onnx import write_colour_model
from tests.tiny_run import TINY

_DRIFT = Path("data/serving/incoming.db")
_SHARPNESS = {"a" * 12: 0.05, "b" * 12: 0.01}
"""Version -> what its probabilities depend on."""
_ENDED_SECONDS = 10


@dataclass
class Scene:
    """A folder with a model for the service, and another model beside it."""

    folder: Path
    chance: random.Random
    expected: Expected = field(default_factory=dict)
    answers: Answers = field(default_factory=lambda: Answers({}))
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        for version, sharpness in _SHARPNESS.items():
            file = write_colour_model(self.folder / f"{version}.onnx", sharpness=sharpness, weights_digest=version * 5)
            self.expected[version] = probabilities_of(file)
        self.first, self.second = self.expected
        self.model.parent.mkdir()
        shutil.copy(self.folder / f"{self.first}.onnx", self.model)

    @property
    def model(self) -> Path:
        return self.folder / "colours" / "model.onnx"

    def put_second(self) -> None:
        """Put the second model into the place of the one that is served, at once."""
        shutil.copy(self.folder / f"{self.second}.onnx", self.folder / "new.onnx")
        os.replace(self.folder / "new.onnx", self.model)

    @contextmanager
    def asked(self, model: str = "colours/model.onnx") -> Iterator[Served]:
        """Yield a service under steady load; `answers` holds the responses."""
        words = (f"--checkpoint_name={model}", "serving.reload_seconds=0.3")
        with (
            serving(self.folder, *words, port=self.port) as served,
            asking(served.url, self.expected) as self.answers,
        ):
            wait_until(lambda: len(self.answers.versions) > 10)
            yield served

    def wait_for(self, version: str) -> None:
        """Wait until an answer names `version`."""
        known = len(self.answers.versions)
        wait_until(lambda: version in self.answers.versions[known:])

    def counted(self) -> int:
        """Return how many images the file of drift counts; -1: it is damaged."""
        if not (self.folder / _DRIFT).is_file():
            return 0
        with closing(sqlite3.connect(self.folder / _DRIFT)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                return -1
            [number] = connection.execute("SELECT SUM(images) FROM counts WHERE measure = 'classes'").fetchone()
        return int(number or 0)


def restarted(served: Served) -> None:
    """Kill the process that answers; the service starts another one, which loads the model again."""
    [worker] = served.workers()
    worker.kill()
    worker.wait(10)


def replaced(scene: Scene) -> str:
    """The model is replaced by another one: the service keeps the old one until its process is started again."""
    with scene.asked() as served:
        scene.put_second()
        time.sleep(0.5)
        if scene.second in scene.answers.versions:
            return "the new model answered before the process was started again"
        restarted(served)
        scene.wait_for(scene.second)
    return "" if scene.answers.versions[-1] == scene.second else "the old model has come back"


def broken_by(damage: Callable[[Scene], None]) -> Callable[[Scene], str]:
    def run(scene: Scene) -> str:
        """The model breaks; a process that is started again refuses requests until a good one is there."""
        with scene.asked() as served:
            damage(scene)
            before = scene.answers.statuses[503]
            restarted(served)
            wait_until(lambda: scene.answers.statuses[503] > before + 5)
            known = len(scene.answers.versions)
            time.sleep(scene.chance.uniform(0.1, 1))
            if len(scene.answers.versions) > known:
                return "a model answered that cannot be read"
            scene.put_second()
            scene.wait_for(scene.second)
            lines = [line for line in served.messages().splitlines() if "no model is served yet" in line]
        return "" if lines else "no line says that the model cannot be loaded"

    return run


def truncated(scene: Scene) -> None:
    data = scene.model.read_bytes()
    scene.model.write_bytes(data[: scene.chance.randrange(1, len(data))])


def junk(scene: Scene) -> None:
    scene.model.write_bytes(scene.chance.randbytes(scene.chance.randrange(1, 5000)))


def written_slowly(scene: Scene) -> str:
    """The other model is written in place, in pieces, while the process is started again."""
    data = (scene.folder / f"{scene.second}.onnx").read_bytes()
    with scene.asked() as served:
        with scene.model.open("wb", buffering=0) as file:
            restarted(served)
            for start in range(0, len(data), 50):
                file.write(data[start : start + 50])
                time.sleep(50 * scene.chance.uniform(2, 4) / len(data))
        scene.wait_for(scene.second)
    return ""


def killed(scene: Scene) -> str:
    """The service is killed in mid-request, and started again at the same port; what it has counted stays."""
    with scene.asked():
        pass
    counted = scene.counted()
    if counted != scene.answers.statuses[200]:
        return f"{counted} images were counted of {scene.answers.statuses[200]}"
    with scene.asked() as served:
        time.sleep(scene.chance.uniform(0, 0.5))
        workers = served.workers()
        served.process.kill()
        if psutil.wait_procs(workers, timeout=10)[1]:
            return "a process has outlived the kill"
        wait_until(lambda: scene.answers.statuses[0] > 0)
        first = scene.answers
    if first.statuses[503]:
        return f"requests were answered {dict(first.statuses)}"
    if scene.counted() < counted:
        return f"{scene.counted()} images are counted after the kill, {counted} were before"
    with scene.asked():
        scene.wait_for(scene.first)
    scene.answers.problems += first.problems
    return "" if scene.counted() >= counted + scene.answers.statuses[200] else "images of the next start are missing"


def ended_within_an_upload(scene: Scene) -> str:
    """SIGTERM, while a body has been sent in part and the rest never comes."""
    with scene.asked() as served, closing(served.connect()) as connection:
        connection.sendall(head(len(PICTURES[0])) + PICTURES[0][: scene.chance.randrange(len(PICTURES[0]))])
        time.sleep(0.3)
        served.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        exit_code, seconds = served.process.wait(30), time.monotonic() - started
        answer, log = received(connection), served.messages()
    if seconds > _ENDED_SECONDS:
        return f"it ended after {seconds:.1f} s"
    if b" 200 " in answer.split(b"\r\n", 1)[0]:
        return "half a body was answered with 200"
    return wrong_ending(exit_code, log, expected=0)


def without_its_drift(prevent: Callable[[Scene, Served], None]) -> Callable[[Scene], str]:
    def run(scene: Scene) -> str:
        """The file of counts cannot be written: all is answered, and one line says so."""
        with scene.asked() as served:
            prevent(scene, served)
            known = len(scene.answers.versions)
            wait_until(lambda: len(scene.answers.versions) > known + 50)
            served.process.terminate()
            exit_code, log = served.process.wait(30), served.messages()
        if problem := wrong_ending(exit_code, log, expected=0):
            return problem
        return "" if log.count("drift is not recorded") == 1 else "not one line says that nothing is counted"

    return run


def file_in_its_place(scene: Scene, _: Served) -> None:
    shutil.rmtree(scene.folder / "data", ignore_errors=True)
    (scene.folder / "data").write_text("a file")


def full_disk(_: Scene, served: Served) -> None:
    for worker in served.workers():
        worker.rlimit(psutil.RLIMIT_FSIZE, (8192, -1))


def damaged_counts(scene: Scene, _: Served) -> None:
    (scene.folder / _DRIFT).parent.mkdir(parents=True, exist_ok=True)
    (scene.folder / _DRIFT).write_bytes(scene.chance.randbytes(5000))


def folder_deleted(scene: Scene) -> str:
    """The folder of the counts is deleted while the service runs: it is made again, and nothing is lost."""
    (scene.folder / _DRIFT).parent.mkdir(parents=True)
    with scene.asked():
        shutil.rmtree(scene.folder / _DRIFT.parent)
    counted, answered = scene.counted(), scene.answers.statuses[200]
    return "" if counted == answered else f"{counted} images were counted of {answered}"


def alias_moved(scene: Scene) -> str:
    """The alias of a registered model moves to and fro while requests run."""
    from mlflow import MlflowClient

    scene.expected.clear()
    for number in ("1", "2"):
        words = [*TINY, "model.width=8", f"seed={number}", f"run_name=run{number}"]
        export = ["export", f"--checkpoint_name=run{number}", "--formats=onnx", "--register=shapes@champion"]
        for line in (["train", *words], export):
            done = run_program(scene.folder, *line)
            if problem := wrong_ending(done.returncode, done.stderr, expected=0):
                raise RuntimeError(problem)
        scene.expected[number] = probabilities_of(scene.folder / f"models/run{number}/export/model.onnx")
    client = MlflowClient(f"sqlite:///{scene.folder}/mlruns/mlflow.db")
    with scene.asked("models:/shapes@champion"):
        for number in ("1", "2", "1", "2"):
            client.set_registered_model_alias("shapes", "champion", number)
            scene.wait_for(number)
    lost = {status: number for status, number in scene.answers.statuses.items() if status != 200}
    return f"requests were answered {lost}" if lost else ""


KINDS: dict[str, Callable[[Scene], str]] = {
    "model replaced by another one": replaced,
    "killed in mid-request, and started again": killed,
    "model truncated": broken_by(truncated),
    "model replaced by junk": broken_by(junk),
    "model deleted": broken_by(lambda scene: scene.model.unlink()),
    "model written slowly": written_slowly,
    "SIGTERM in mid-upload": ended_within_an_upload,
    "a file in place of the folder of counts": without_its_drift(file_in_its_place),
    "disk full": without_its_drift(full_disk),
    "file of counts damaged": without_its_drift(damaged_counts),
    "folder of counts deleted": folder_deleted,
    "alias moved": alias_moved,
}


def change_models(number: int, folder: Path) -> Iterator[Trial]:
    """Start `number` services, and do to each what is next in turn."""
    kinds = list(KINDS)
    for seed in range(number):
        kind = kinds[seed % len(kinds)]
        place = folder / str(seed)
        place.mkdir()
        scene = Scene(place, random.Random(seed))
        try:
            problem = KINDS[kind](scene)
        except (AssertionError, RuntimeError) as error:  # a fault that was not made is not survived
            problem = str(error)
        yield Trial(kind, problem or next(iter(scene.answers.problems), ""))


def change_weights_only(_: int, folder: Path) -> Iterator[Trial]:
    """Replace a model by one of other weights that claims to be the same version."""
    scene = Scene(folder, random.Random(0))
    with scene.asked() as served:
        write_colour_model(scene.model, sharpness=_SHARPNESS[scene.second], weights_digest=scene.first * 5)
        restarted(served)
        wait_until_ready(served)
        wait_until(lambda: scene.answers.problems)
    yield Trial("other weights, same digest", scene.answers.problems[0])


CHANGED_MODEL = Experiment(
    row="S3",
    name="changed_model",
    claim="Each answer names the model that computed it; clients get an answer, 503 or a closed connection; the next "
    "start works, and what was counted is whole.",
    run=change_models,
    short=3,
    full=24,
    control=change_weights_only,
)
