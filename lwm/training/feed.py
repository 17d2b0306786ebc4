"""Batches on the devices before they are needed: one thread reads ahead, at most two batches."""

import collections
import concurrent.futures
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

DEPTH = 2


class Fed(NamedTuple):
    """A batch on the devices, and where the iterator stood right after it."""

    batch: dict[str, jax.Array]
    position: dict


class Feed:
    """Iterates over `Fed`; use as a context manager, which stops the thread.

    An error of the iterator comes out of `next`, in its turn.
    """

    def __init__(self, batches: Any, shapes: dict, shardings: dict | None):
        """Starts reading.

        Args:
          batches: this host's part of the batches, an iterator with `get_state`.
          shapes: the global batch, see `inputs.batch_shapes`.
          shardings: of the global batch, None = one device.
        """
        self._batches, self._shapes, self._shardings = batches, shapes, shardings
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._ahead = collections.deque(self._thread.submit(self._read) for _ in range(DEPTH))

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *failure) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Fed]:
        return self

    def __next__(self) -> Fed:
        self._ahead.append(self._thread.submit(self._read))
        return self._ahead.popleft().result()

    def _read(self) -> Fed:
        batch = next(self._batches)
        return Fed(to_devices(batch, self._shapes, self._shardings), self._batches.get_state())


def to_devices(batch: dict[str, np.ndarray], shapes: dict, shardings: dict | None) -> dict[str, jax.Array]:
    """This host's rows of a batch as a part of the global arrays."""
    if shardings is None:
        return jax.device_put(batch)
    return jax.tree.map(
        lambda array, own, shape: jax.make_array_from_process_local_data(own, array, shape.shape),
        batch,
        shardings,
        shapes,
    )
