"""Whether all hosts of a run are of one mind before it begins: config, code, libraries, devices, clocks."""

import collections
import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from lwm.errors import UserError, refuse
from lwm.training.decision import exchange
from lwm.training.provenance import code_digest, library_versions

SKEW = 60.0  # seconds between clocks that are worth a warning
_NAME = 64  # bytes of a host's name


class Host(NamedTuple):
    """What one host brings to a run.

    config, code, libraries: digests. clock: seconds since 1970.
    """

    name: str
    config: str
    code: str
    libraries: str
    devices: int
    clock: float = 0.0


def agree(config: dict[str, Any]) -> str:
    """Compares all hosts; every one of them is to call this, as the first thing that they do together.

    Returns:
      a warning about clocks, "" = they agree.

    Raises:
      UserError: there are not as many hosts as were started, or one of them differs.
    """
    check_count(os.environ.get("JAX_NUM_PROCESSES", ""), jax.process_count())
    if jax.process_count() == 1:
        return ""
    own = Host(
        platform.node()[:_NAME],
        config=_digest(config),
        code=_digest(code_digest()),
        libraries=_digest(library_versions()),
        devices=jax.local_device_count(),
    )
    # The first exchange is a barrier too: after it all hosts read their clocks at the same moment.
    hosts = [Host(*json.loads(text)) for text in exchange(json.dumps(own[:5]))]
    now = multihost_utils.process_allgather(np.array(divmod(time.time_ns() // 10**6, 10**6), np.int32))
    clocks = [int(a) * 1e3 + int(b) / 1e3 for a, b in now]
    hosts = [host._replace(clock=clock) for host, clock in zip(hosts, clocks, strict=True)]
    refuse(disagreements(hosts))
    return clock_skew(hosts)


def check_count(started: str, found: int) -> None:
    """Checks that JAX sees as many processes as JAX_NUM_PROCESSES says ("" = it says nothing).

    Raises:
      UserError: it does not, and each of them would train by itself.
    """
    if started and int(started) != found:
        raise UserError(
            f"JAX_NUM_PROCESSES: {started} hosts were started, JAX found {found}; choose a backend that "
            "joins them (on CPUs: JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo)"
        )


def disagreements(hosts: Sequence[Host]) -> list[str]:
    """A line for each host that has something that most of the others, or else the first one, do not have."""
    fixes = {
        "config": "start the same command with the same config on all hosts",
        "code": "bring all hosts to the same commit",
        "libraries": "install the same versions on all hosts (launch/constraints.txt)",
        "devices": "give all hosts as many devices",
    }
    lines = []
    for field, fix in fixes.items():
        values = [getattr(host, field) for host in hosts]
        common = collections.Counter(values).most_common(1)[0][0]
        for index, (host, value) in enumerate(zip(hosts, values, strict=True)):
            if value != common:
                other = f"host {values.index(common)} ({hosts[values.index(common)].name})"
                lines.append(f"host {index} ({host.name}): {field} {value}, on {other} {common}; {fix}")
    return lines


def clock_skew(hosts: Sequence[Host]) -> str:
    """A line about clocks that are more than SKEW apart, "" if none are."""
    first, last = min(hosts, key=lambda host: host.clock), max(hosts, key=lambda host: host.clock)
    if (skew := last.clock - first.clock) <= SKEW:
        return ""
    places = [f"host {hosts.index(host)} ({host.name})" for host in (last, first)]
    return f"warning: the clock of {places[0]} is {skew:.0f} s ahead of that of {places[1]}; set them by NTP"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
