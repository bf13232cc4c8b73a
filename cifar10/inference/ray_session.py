"""A session of Ray, on this machine or a cluster, without its messages, dashboard and usage statistics."""

import logging
import os
import re
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import TYPE_CHECKING, Any, TypeAlias

from cifar10.config.conf_folder import CONF, PROJECT
from cifar10.errors import UsageError, UserError, first_line
from cifar10.system.limits import num_cpus
from cifar10.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

_SILENCE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # workers that have reserved no GPU see none
}
"""Read when Ray is imported."""
_OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory on this machine, for images and rows on their way."""
_PROBE_SECONDS = 3.0
_PATIENCE = 60.0
"""Seconds until the first rows, without a message."""
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class NamedFiles:
    """Names of image files, in tables with one column of bytes."""

    blocks: "list[pa.Table]"

    def data_set(self) -> Any:
        """Return Ray's data set of the names."""
        import ray.data

        return ray.data.from_arrow(self.blocks)


@dataclass(frozen=True)
class ParquetFiles:
    """Columns of Parquet files, and into how many blocks they are divided."""

    files: list[str]
    columns: list[str]
    num_blocks: int

    def data_set(self) -> Any:
        """Return Ray's data set of the columns."""
        import ray.data

        return ray.data.read_parquet(
            self.files, columns=self.columns, num_cpus=0.5, override_num_blocks=self.num_blocks
        )


Images: TypeAlias = NamedFiles | ParquetFiles


@dataclass(frozen=True)
class RaySession:
    """A connection to Ray."""

    address: str | None
    workers: int
    num_cpus: int
    """Threads of each worker."""
    reserved_cpus: float
    """Of each worker, in Ray's accounts, where something must be left for tasks that read: else all wait for ever."""
    num_gpus: int
    """Of each worker."""

    def map(self, images: Images, classifier: type, work: Any, batch_images: int) -> "Iterator[pa.Table]":
        """Yield what `classifier(work)`, one in each worker, returns for batches of a data set, in order.

        Raises:
            UserError: Ray fails.
        """
        import ray

        tables = _mapped(self, images, classifier, work, batch_images)
        if self.address is not None and self.address.startswith("ray://"):
            remote_driver: Any = ray.remote(num_cpus=0)(_RemoteDriver)
            driver = remote_driver.remote(self, images, classifier, work, batch_images)
            tables = iter(lambda: ray.get(driver.next.remote()), None)
        waits = threading.Timer(_PATIENCE, _say_waiting)
        waits.daemon = True
        waits.start()
        try:
            for table in tables:
                waits.cancel()
                yield table
        except ray.exceptions.RayError as error:
            raise UserError(f"Ray failed: {first_line(error)[:300]}") from error
        finally:
            waits.cancel()


class _RemoteDriver:
    """Runs Ray Data on a machine of the cluster, since Ray Data does not work through the client, `ray://`."""

    def __init__(self, *arguments: Any) -> None:
        self._tables = _mapped(*arguments)

    def next(self) -> "pa.Table | None":
        return next(self._tables, None)


def _mapped(
    session: RaySession, images: Images, classifier: type, work: Any, batch_images: int
) -> "Iterator[pa.Table]":
    import ray.data

    warnings.filterwarnings("ignore", module=r"ray\.")  # such as fewer blocks than workers
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    mapped = images.data_set().map_batches(
        classifier,
        fn_constructor_args=(work,),
        batch_size=batch_images,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=session.workers),
        num_cpus=session.reserved_cpus,
        num_gpus=session.num_gpus,
    )
    yield from mapped.iter_batches(batch_size=None, batch_format="pyarrow")


def _say_waiting() -> None:
    print("waiting for Ray: its machines may be busy; to see them: ray status", file=sys.stderr, flush=True)


def require_address(address: str) -> None:
    """Refuse what is not the address of a Ray cluster, and one where nothing listens.

    Raises:
        UsageError: It is no address.
        UserError: Nothing listens there.
    """
    if address == "auto":
        return
    found = re.fullmatch(r"(?:ray://)?([\w.-]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", address)
    if found is None or int(found[2]) > 65535:
        raise UsageError(f"--address={address}: must be ray://HOST:PORT, HOST:PORT of a head node, or auto")
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), _PROBE_SECONDS).close()
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(
            f"--address: no Ray cluster listens at {address} ({reason}); start one: ray start --head"
        ) from None


@contextmanager
def ray_session(address: str | None, workers: int | None, device: str) -> Iterator[RaySession]:
    """Connect to Ray, or start it on this machine, and disconnect or stop it at the end.

    Args:
        address: Of a cluster; None: this machine.
        workers: Number of processes; None: one for each machine, or for each GPU.
        device: auto, cpu, cuda or cuda:N. A worker reserves a GPU if it may use one.

    Raises:
        UserError: Ray is not installed, or cannot be started.
    """
    os.environ.update(_SILENCE)
    if address is not None and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read, as those above, when Ray is imported
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise missing_ray() from error
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with ExitStack() as stack:
        # Ray prints its warnings, such as of many worker processes on a busy machine, in a thread of this process
        stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        try:
            with _silent():
                ray.init(**_start_options(address, stack), log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of many types
            verb = "started" if address is None else f"reached at {address}"
            raise UserError(f"Ray cannot be {verb}: {_cause(error)}") from error
        stack.callback(ray.shutdown)
        yield _planned(address, workers, device)


def missing_ray() -> UserError:
    """Return the error that Ray is not installed."""
    return UserError("batch needs a package: python -m pip install 'ray[client,data]>=2.60'")


def _has_token() -> bool:
    """Return whether a token is set up, which clusters may demand (Ray's "Token authentication")."""
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return given or (Path.home() / ".ray" / "auth_token").is_file()


def _cause(error: BaseException) -> str:
    """Return the first line of what `error` was raised from: Ray's own says only that it failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)[:300]


@contextmanager
def _silent() -> Iterator[None]:
    """Discard what Ray's compiled code prints to stderr; errors are raised."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _start_options(address: str | None, stack: ExitStack) -> dict[str, Any]:
    if address is None:
        path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {
            "address": "local",
            "num_cpus": num_cpus() + 1,  # one that tasks may have which read and do not compute
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",  # nothing listens to other machines
            "object_store_memory": _OBJECT_STORE,
            "runtime_env": {"env_vars": {"PYTHONPATH": path, **_SILENCE}},
        }
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cifar10-")))
    for source in (_PACKAGE, CONF):  # sent to the cluster, whose machines need only the packages
        copytree(source, folder / source.name, ignore=ignore_patterns("__pycache__"))
    return {"address": address, "runtime_env": {"working_dir": str(folder), "env_vars": _SILENCE}}


def _planned(address: str | None, workers: int | None, device: str) -> RaySession:
    """Return the session with processors and GPUs divided among the workers."""
    import ray

    untyped: Any = ray
    alive = [node["Resources"] for node in untyped.nodes() if node["Alive"]]
    machines = [resources for resources in alive if resources.get("CPU")] or alive
    num_gpus = int(sum(resources.get("GPU", 0) for resources in machines))
    uses_gpus = device.startswith("cuda") or (device == "auto" and num_gpus > 0)
    size = workers or (max(1, num_gpus) if uses_gpus else len(machines))
    if uses_gpus and num_gpus < size:
        raise UserError(f"--device={device}: {counted(size, 'worker')} need as many GPUs, and Ray knows of {num_gpus}")
    on_each = -(-size // len(machines))
    if address is None:
        threads = max(1, num_cpus() // on_each)
        return RaySession(address, size, threads, num_cpus() / on_each, int(uses_gpus))
    processors = min(resources.get("CPU", 1) for resources in machines)
    threads = max(1, int(processors - 1) // on_each)  # one is left to read
    return RaySession(address, size, threads, min(threads, processors / 2 / on_each), int(uses_gpus))
