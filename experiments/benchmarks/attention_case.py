"""One case of the attention scoreboard, measured: a worker process that `attention.py` starts.

Everything that is compared is compiled and warmed up in this process; then the contenders take turns, round
after round, so that whatever else the machine does falls on all of them. If there are several processes, they
are pinned to one core each and wait for each other before and after everything that is timed.
"""

import json
import os
import statistics
import sys
import time

import numpy as np

SMALL = 1024  # tokens at which errors are measured
HOPELESS = 2**17  # tokens beyond which all scores at once are not even compiled
MATMUL = 2048  # rows and columns of the large product
BACKWARD = 2.5  # work of backward over forward: five products instead of two
LOST = 600  # seconds that a device may wait for another before XLA gives up


def start(asked: dict, process: int, port: int):
    """Sets up this process; returns the devices of the ring, JAX imported."""
    if asked["processes"] > 1:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[process % len(cores)]})
    # Eight devices on two cores wait for each other for long.
    late = (
        f"--xla_cpu_collective_call_{what}_timeout_seconds={LOST}" for what in ("warn_stuck", "terminate")
    )
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *late])
    import jax

    if asked["pod"]:
        from lwm.compilation.topology import open_pod

        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing here holds a TPU: it only compiles
        return open_pod(asked["pod"]).devices
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", asked["devices"] // asked["processes"])
    if asked["processes"] > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", asked["processes"], process)
    return jax.devices()


def dense64(q, k, v, dout):
    """Causal attention in float64 by the textbook: out and the gradients of q, k, v; all BTNH."""
    q, k, v, dout = (np.swapaxes(x.astype(np.float64), 1, 2) for x in (q, k, v, dout))
    scale = q.shape[-1] ** -0.5
    scores = q @ np.swapaxes(k, 2, 3) * scale
    scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dweights = dout @ np.swapaxes(v, 2, 3)
    dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True)) * scale
    turned = np.swapaxes(dscores, 2, 3) @ q
    found = weights @ v, dscores @ k, turned, np.swapaxes(weights, 2, 3) @ dout
    return [np.swapaxes(x, 1, 2) for x in found]


class Case:
    """The arrays, the compiled programs and the clock of one case."""

    def __init__(self, asked: dict, devices, process: int):
        import jax

        from lwm.parallel.mesh import make_mesh

        self.asked, self.process = asked, process
        self.mesh = make_mesh(seq=len(devices), devices=devices)
        self.sharding = jax.NamedSharding(self.mesh, jax.sharding.PartitionSpec(None, "seq"))
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """A line of progress."""
        if not self.process:
            print(f"  {time.monotonic() - self.began:6.1f} s  {text}", file=sys.stderr, flush=True)

    def inputs(self, length: int) -> list[np.ndarray]:
        """q, k, v and the gradient of out, in natural order."""
        rng = np.random.default_rng(0)
        shape = 1, length, self.asked["heads"], self.asked["head_dim"]
        return [rng.normal(size=shape).astype(np.float32) for _ in range(4)]

    def place(self, array: np.ndarray, layout: str):
        """The array over the ring in the order of a layout."""
        import jax

        from lwm.parallel.layout import zigzag_order

        if layout == "zigzag":
            array = array[:, zigzag_order(array.shape[1], self.asked["devices"])]
        return jax.make_array_from_callback(array.shape, self.sharding, lambda index: array[index])

    def compile(self, attend, length: int, turn: str):
        """The program of one contender, "forward" or "both" (out and three gradients)."""
        import jax

        def both(q, k, v, dout):
            out, pull = jax.vjp(attend, q, k, v)
            return out, *pull(dout)

        shape = 1, length, self.asked["heads"], self.asked["head_dim"]
        x = jax.ShapeDtypeStruct(shape, self.asked["dtype"], sharding=self.sharding)
        with jax.set_mesh(self.mesh):
            if turn == "forward":
                return jax.jit(attend, out_shardings=self.sharding).lower(x, x, x).compile()
            return jax.jit(both, out_shardings=(self.sharding,) * 4).lower(x, x, x, x).compile()

    def errors(self, contender) -> dict:
        """Of out, and the largest of the three gradients; each relative to the largest value."""
        import jax
        from jax.experimental.multihost_utils import process_allgather

        from lwm.parallel.layout import natural_order

        arrays = self.inputs(min(SMALL, self.asked["tokens"]))
        if contender.stand_in is None:
            program = self.compile(contender.attend, arrays[0].shape[1], "both")
            found = program(*(self.place(x, contender.layout) for x in arrays))
        else:
            out, pull = jax.vjp(jax.jit(contender.stand_in), *arrays[:3])
            found = out, *pull(arrays[3])
        found = [process_allgather(x, tiled=True) for x in found]
        if contender.layout == "zigzag":
            order = natural_order(arrays[0].shape[1], self.asked["devices"])
            found = [x[:, order] for x in found]
        wanted = dense64(*arrays)
        off = [float(abs(x - y).max() / abs(y).max()) for x, y in zip(found, wanted, strict=True)]
        return {"error_out": f"{off[0]:.2e}", "error_gradients": f"{max(off[1:]):.2e}"}

    def seconds(self, call, arrays) -> float:
        """Of one call, until every process has done its share."""
        import jax
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("before")
        began = time.perf_counter()
        jax.block_until_ready(call(*arrays))
        sync_global_devices("after")
        return time.perf_counter() - began


def described(compiled, turn: str, pod: str) -> dict:
    """Memory and traffic of a compiled program, of one device."""
    from lwm.compilation.collectives import collectives
    from lwm.compilation.hlo import Module

    found = collectives(Module(compiled.as_text()))
    permutes = [own for own in found if own.kind == "collective-permute"]
    row = {
        f"temporaries_{turn}_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 2),
        f"permutes_{turn}": sum(own.times for own in permutes),
        f"sent_{turn}_mib": round(sum(own.total for own in found) / 2**20, 2),
    }
    if pod:
        row[f"exposed_{turn}"] = sum(own.times for own in permutes if not own.hidden)
    if not all(own.certain for own in found):
        row["note"] = "length of a loop is not known: permutes and bytes are at least these"
    return row


def measure(asked: dict, devices, process: int) -> list[dict]:
    """One row for each contender."""
    import jax
    import jax.numpy as jnp
    from peers import contenders

    case, length = Case(asked, devices, process), asked["tokens"]
    field = contenders(asked["block"], asked["chunks"], asked["devices"])
    rows, programs, timed = [{} for _ in field], {}, bool(asked["rounds"])
    for number, (contender, row) in enumerate(zip(field, rows, strict=True)):
        row |= {"name": contender.name, "chunk": contender.chunk or "", "note": ""}
        if length > HOPELESS and not contender.chunk:
            row["note"] = "not tried: all scores at once"
            continue
        row["executed_over_ideal"] = round(contender.balance(length, asked["devices"]), 4)
        case.say(f"compiling {contender.name} {contender.chunk or ''}")
        try:
            for turn in ("forward", "both"):
                compiled = case.compile(contender.attend, length, turn)
                row |= described(compiled, turn, asked["pod"])
                programs[number, turn] = compiled
        except Exception as error:
            row["note"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        if timed and ((number, "both") in programs or contender.stand_in):
            row |= case.errors(contender)
        if timed and length > contender.longest and not row["note"]:
            row["note"] = f"compiled only beyond {contender.longest} tokens"
        if not timed or length > contender.longest:
            programs = {key: program for key, program in programs.items() if key[0] != number}
    if timed:
        here = jax.local_devices()[0]
        square = jax.device_put(np.ones((MATMUL, MATMUL), np.float32), here)
        product = jax.jit(jnp.matmul).lower(square, square).compile()
        taken = clock(case, field, programs, lambda: case.seconds(product, (square, square)))
        summarize(rows, taken, asked)
    return rows


def clock(case: Case, field, programs: dict, product) -> dict:
    """Seconds of each program, and of the large product (under None), in each round after a first one."""
    placed = {}
    for layout in {field[number].layout for number, _ in programs}:
        placed[layout] = [case.place(x, layout) for x in case.inputs(case.asked["tokens"])]
    taken = {key: [] for key in [*programs, None]}
    for turn in range(case.asked["rounds"] + 1):
        for (number, kind), program in programs.items():
            arrays = placed[field[number].layout][: 3 if kind == "forward" else 4]
            taken[number, kind].append(case.seconds(program, arrays))
        taken[None].append(product())
        names = [f"{own.name.split()[0]} {own.chunk or ''}".strip() for own in field]
        shown = [f"{names[number]} {kind} {taken[number, kind][-1]:.3f}" for number, kind in programs]
        case.say(f"{f'round {turn}' if turn else 'warm-up'}: {', '.join(shown)}")
    return {key: own[1:] for key, own in taken.items()}


def summarize(rows: list[dict], taken: dict, asked: dict) -> None:
    """Adds seconds, ratios and throughput to the rows; ours is the first of them."""
    matmul = asked["processes"] * 2 * MATMUL**3 / statistics.median(taken.pop(None)) / 1e9
    work = 2 * asked["tokens"] ** 2 * asked["heads"] * asked["head_dim"] / 1e9
    for (number, turn), seconds in taken.items():
        row, median = rows[number], statistics.median(seconds)
        ratios = [theirs / ours for theirs, ours in zip(seconds, taken[0, turn], strict=True)]
        rate = work * (1 if turn == "forward" else 1 + BACKWARD) / median
        row |= {
            f"seconds_{turn}": round(median, 4),
            f"ratio_{turn}": round(statistics.median(ratios), 3),
            f"ratio_{turn}_range": f"{min(ratios):.2f}-{max(ratios):.2f}",
            f"gflops_{turn}": round(rate, 1),
            f"of_matmul_{turn}": round(rate / matmul, 3),
            "matmul_gflops": round(matmul, 1),
        }


def main() -> None:
    asked, process, port = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rows = measure(asked, start(asked, process, port), process)
    if not process:
        print(json.dumps(rows), flush=True)


if __name__ == "__main__":
    main()
