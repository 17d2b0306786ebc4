"""One decision for all hosts: the first one takes it, the others hear of it."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lwm.errors import UserError


def together(decide: Callable[[], Any]) -> Any:
    """What `decide` returns on the first host, on every host; no host goes on before it is done.

    To be called by all hosts. What hosts see of a shared folder may differ by moments, and a large checkpoint
    is to be read once and not once for each host.

    Args:
      decide: is called on the first host alone; returns JSON.

    Raises:
      UserError: `decide` raised it, or an OSError; on every host.
    """
    if jax.process_count() == 1:
        return decide()
    said = {}
    if jax.process_index() == 0:
        try:
            said = {"decision": decide()}
        except (UserError, OSError) as error:
            exchange(json.dumps({"error": str(error)}))
            raise
    said = json.loads(exchange(json.dumps(said))[0])
    if "error" in said:
        raise UserError(said["error"])
    return said["decision"]


def exchange(text: str) -> list[str]:
    """The texts of all hosts, in their order; to be called by all of them."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.array([len(own)]))).reshape(-1)
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]
