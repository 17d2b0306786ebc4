"""One host of `lv_xattn_network.py`: a process with one device that compiles and times what it is told.

    python -m experiments.benchmarks.lv_xattn_case HOSTS NUMBER

Each line of the input is a request in JSON, answered by a line; all hosts get the same requests.
    {"prepare": {"mode": …, …}, "programs": [[method, direction], …]}   compiles; seconds that took
    {"time": [[method, direction], …], "rounds": …}                     [[seconds, bytes], …] of each

Every call is waited for, and all hosts begin it together. The bytes are those that left the host's interface
from then until all hosts were done: with headers, acknowledgements and a barrier of some hundred bytes.
"""

import faulthandler
import json
import os
import pathlib
import sys
import time

PORT = 7700
SENT = pathlib.Path("/sys/class/net/eth0/statistics/tx_bytes")
LOST = 600  # seconds after which a request is given up: a host that waits for a dead one would wait for ever


def start(hosts: int, number: int) -> None:
    """Joins the hosts, with one device and one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    late = (
        f"--xla_cpu_collective_call_{what}_timeout_seconds={LOST}" for what in ("warn_stuck", "terminate")
    )
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *late])
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"lwm-host0:{PORT}", hosts, number, initialization_timeout=LOST)


def make_case(asked: dict):
    """What is compiled and called in a mode, with `compile(method, direction)` and `arrays(direction)`."""
    if asked["mode"] == "model":
        from experiments.benchmarks.lv_xattn_model import Model

        return Model(asked)
    from experiments.benchmarks.lv_xattn_methods import Layer

    return Layer(asked)


class Clock:
    """The programs of a case, and how long they take."""

    def __init__(self):
        import jax
        import jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec

        from lwm.parallel.mesh import make_mesh

        mesh = make_mesh(seq=-1)
        place = NamedSharding(mesh, PartitionSpec("seq"))
        self.one = jax.make_array_from_process_local_data(place, jnp.ones(1), (len(jax.devices()),))
        whole = NamedSharding(mesh, PartitionSpec())
        self.total = jax.jit(jnp.sum, out_shardings=whole).lower(self.one).compile()

    def barrier(self) -> None:
        self.total(self.one).block_until_ready()

    def prepare(self, asked: dict, programs: list) -> float:
        """Compiles; returns the seconds that took."""
        began = time.perf_counter()
        case = make_case(asked)
        self.arrays = {direction: case.arrays(direction) for _, direction in programs}
        self.programs = {
            (method, direction): case.compile(method, direction) for method, direction in programs
        }
        return time.perf_counter() - began

    def time(self, programs: list, rounds: int) -> list:
        """[seconds, bytes] of every round of each program."""
        taken = [[] for _ in programs]
        for _ in range(rounds):
            for own, key in zip(taken, map(tuple, programs), strict=True):
                own.append(self.call(self.programs[key], self.arrays[key[1]]))
        return taken

    def call(self, program, arrays) -> tuple[float, int]:
        import jax

        self.barrier()
        before, began = int(SENT.read_text()), time.perf_counter()
        jax.block_until_ready(program(*arrays))
        seconds = time.perf_counter() - began
        self.barrier()
        return seconds, int(SENT.read_text()) - before


def main() -> None:
    # Gloo writes to the standard output: answers get a copy of it, and all else goes where errors go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.dump_traceback_later(LOST, exit=True)
    start(int(sys.argv[1]), int(sys.argv[2]))
    clock = Clock()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        faulthandler.dump_traceback_later(LOST, exit=True)
        if "prepare" in request:
            answer = clock.prepare(request["prepare"], request["programs"])
        else:
            answer = clock.time(request["time"], request["rounds"])
        print(json.dumps(answer), file=answers, flush=True)
    # Leaving in good order would wait for hosts that may be gone.
    os._exit(0)


if __name__ == "__main__":
    main()
