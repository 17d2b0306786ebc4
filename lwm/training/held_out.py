"""Losses on held-out batches, the same ones every time."""

from collections.abc import Callable
from typing import Any

import jax

from lwm.training import metrics as sums


class HeldOut:
    """Reads its batches once, when it is first asked, and keeps this host's part of them in memory."""

    def __init__(self, evaluate: Callable, open_batches: Callable[[], Any], to_devices: Callable, count: int):
        """Of `step.make_eval_step`, `inputs.open_batches` and `feed.to_devices`; looks at `count` batches."""
        self._evaluate, self._open, self._to_devices, self._count = evaluate, open_batches, to_devices, count
        self._batches: list[dict] = []

    def __call__(self, params: Any, key: jax.Array) -> dict[str, float]:
        """Means over all batches of what the model reports, each weighted as `metrics.weighted` says."""
        if not self._batches:
            stream = self._open()
            self._batches = [next(stream) for _ in range(self._count)]
        totals: dict[str, float] = {}
        for batch in self._batches:
            found = jax.device_get(self._evaluate(params, self._to_devices(batch), key))
            for name, value in sums.weighted({name: float(value) for name, value in found.items()}).items():
                totals[name] = totals.get(name, 0.0) + value
        return sums.mean(totals)
