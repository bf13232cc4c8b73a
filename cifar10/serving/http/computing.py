"""Threads that decode images and compute their probabilities, so that the event loop stays free for requests."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cifar10.errors import UserError
from cifar10.images.decode import EncodedImage, ImageError, Pixels
from cifar10.inference.predictor import Predictor
from cifar10.serving.http.model import ServedModel
from cifar10.system.priority import give_way


class Computed(NamedTuple):
    """What a model says of an image."""

    probabilities: NDArray[np.float32]
    """(K,)."""
    unlike: bool | None
    """Whether the image is unlike the training data; None: the model cannot tell."""


Row: TypeAlias = Computed | ImageError
"""What a model says of an image, or the reason why it cannot be read."""
Observer: TypeAlias = Callable[[ServedModel, NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_] | None], None]
"""Called with a batch: the model, pixels (B, S, S, 3), probabilities (B, K), and which images are unlike, (B,)."""

_LOG = logging.getLogger("cifar10.serving")


@dataclass(eq=False)
class _Job:
    model: ServedModel
    images: Sequence[bytes] | NDArray[np.uint8]
    rows: "asyncio.Future[list[Row]]"


class Computing:
    """A queue of images, and the threads that compute them in the order of their arrival.

    Args:
        num_threads: That compute at the same time.
        most_images: Of waiting requests, computed together in one batch.
        max_pixels: Width times height of the largest image that is decoded.
        observe: Called with each batch, in any of the threads.
    """

    def __init__(
        self,
        num_threads: int,
        most_images: int,
        max_pixels: int,
        observe: Observer,
    ) -> None:
        self._most_images = most_images
        self._max_pixels = max_pixels
        self._observe = observe
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_open = True
        self._loop = asyncio.get_running_loop()
        self._threads = [threading.Thread(target=self._work, name=f"compute-{i}") for i in range(num_threads)]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    async def rows(self, model: ServedModel, images: Sequence[bytes] | NDArray[np.uint8]) -> list[Row]:
        """Return one row for each image.

        Args:
            model: Computes.
            images: Encoded images, or pixels, uint8 (B, S, S, 3), RGB.
        """
        job = _Job(model, images, self._loop.create_future())
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return await job.rows

    def close(self) -> None:
        """End the threads after the batch that each computes now."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        give_way()
        while jobs := self._next_jobs():
            try:
                answers: list[list[Row]] | Exception = self._computed(jobs)
            except Exception as error:
                if not isinstance(error, UserError):
                    _LOG.exception("images could not be computed")
                answers = error
            self._loop.call_soon_threadsafe(_deliver, jobs, answers)

    def _next_jobs(self) -> list[_Job]:
        """Return waiting requests for the same model, at most `most_images` images if there are several; [] to end."""
        with self._changed:
            while not self._waiting and self._is_open:
                self._changed.wait()
            if not self._is_open:
                return []
            jobs = [self._waiting.popleft()]
            num_images = len(jobs[0].images)
            while self._waiting and self._waiting[0].model is jobs[0].model:
                num_images += len(self._waiting[0].images)
                if num_images > self._most_images:
                    break
                jobs.append(self._waiting.popleft())
        return jobs

    def _computed(self, jobs: Sequence[_Job]) -> list[list[Row]]:
        """Return the rows of each job; [] for one that nobody waits for any more."""
        model = jobs[0].model
        decoded = [
            [self._decoded(model.predictor, image) for image in job.images if not job.rows.done()] for job in jobs
        ]
        readable = [pixels for group in decoded for pixels in group if not isinstance(pixels, ImageError)]
        if not readable:
            return [[error for error in group if isinstance(error, ImageError)] for group in decoded]
        batch = np.stack(readable)
        probabilities, flags = model.predictor.probabilities_and_unlike(batch)
        self._observe(model, batch, probabilities, flags)
        unlike = [None] * len(batch) if flags is None else flags.tolist()
        rows = map(Computed, probabilities, unlike)
        return [[pixels if isinstance(pixels, ImageError) else next(rows) for pixels in group] for group in decoded]

    def _decoded(self, predictor: Predictor, image: bytes | Pixels) -> Pixels | ImageError:
        if not isinstance(image, bytes):
            return image
        try:
            encoded = EncodedImage(image)
            if encoded.num_pixels > self._max_pixels:
                return ImageError(f"too large: the limit is {self._max_pixels / 1e6:g} megapixels")
            return encoded.decode_square(predictor.preprocessing, predictor.reduced)
        except ImageError as error:
            return error


def _deliver(jobs: Sequence[_Job], answers: "list[list[Row]] | Exception") -> None:
    """Hand over the rows, in the event loop; a request may have been given up meanwhile."""
    if isinstance(answers, Exception):
        for job in jobs:
            if not job.rows.done():
                job.rows.set_exception(answers)
        return
    for job, rows in zip(jobs, answers, strict=True):
        if not job.rows.done():
            job.rows.set_result(rows)
