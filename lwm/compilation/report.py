"""What a compiled step is like, as a table for people and as a flat row for a file."""

from collections import defaultdict

from lwm.compilation.collectives import Collective
from lwm.compilation.step import Result

GIB, MIB = 2**30, 2**20


def table(result: Result) -> str:
    """The whole report, in lines of text."""
    lines = [*_head(result), "", *_memory(result)]
    if not result.fits:
        return "\n".join([*lines, "", *_advice(result)])
    return "\n".join([*lines, "", *_work(result), "", *_collectives(result.found)])


def row(result: Result) -> dict[str, str | float]:
    """The same in one row: GiB of a device, seconds, and totals."""
    found, limit = result.found, result.bound
    sent = sum(own.total for own in found)
    exposed = sum(own.total for own in found if not own.hidden)
    return {
        "fits": result.fits,
        "needed_gib": round(result.needed / GIB, 3),
        "available_gib": round(result.available / GIB, 3),
        "arguments_gib": round(result.arguments / GIB, 3),
        "temporaries_gib": round(result.temporaries / GIB, 3),
        "peak_gib": round(result.needed / GIB, 3) if result.fits else "",
        "host_gib": round(result.host / GIB, 3),
        "parameters": result.parameters,
        "model_flops": result.flops.model,
        "xla_flops_a_device": result.xla_flops,
        "sent_gib": round(sent / GIB, 3),
        "exposed_gib": round(exposed / GIB, 3),
        "bound_seconds": round(limit.seconds, 4) if limit else "",
        "bound_by": limit.by if limit else "",
        "mfu_bound": round(result.mfu, 4) if result.mfu else "",
        "lowered_s": round(result.lowered_in, 1),
        "compiled_s": round(result.compiled_in, 1),
    }


def _head(result: Result) -> list[str]:
    stage, pod = result.program.stage, result.pod
    mesh = " ".join(f"{axis}={size}" for axis, size in result.program.mesh.shape.items())
    what = f"{stage.rows} x {stage.context_length:,} tokens" if stage.context_length else ""
    what = what or f"{stage.rows} {stage.unit}"
    if stage.of_clips:
        what += f" beside {stage.row_frames(result.program.mesh.shape['seq']):,} frames each"
    return [
        f"{stage.name} on {pod.name}: {len(pod.devices)} devices, {mesh}, batch {what}",
        f"lowered in {result.lowered_in:.1f} s, compiled in {result.compiled_in:.1f} s",
    ]


def _memory(result: Result) -> list[str]:
    room = result.available - result.needed
    if not result.fits:
        return [
            f"DOES NOT FIT: needs {_gib(result.needed)} of temporaries, a device has"
            f" {_gib(result.available)}, {_gib(-room)} too much"
        ]
    lines = [
        f"FITS: {_gib(result.needed)} of {_gib(result.available)} a device, {_gib(room)} to spare",
        f"  arguments    {_gib(result.arguments)}",
        f"  temporaries  {_gib(result.temporaries)}  as the compiler adds them up",
    ]
    if result.host:
        lines.append(f"  on the host  {_gib(result.host)}")
    lines += ["  largest arrays"]
    return lines + [f"    {_gib(size)}  {shape}  {_short(where)}" for size, shape, where in result.large]


def _work(result: Result) -> list[str]:
    limit, flops = result.bound, result.flops
    lines = [
        f"parameters {result.parameters:,}",
        f"FLOPs a step {flops.model:.4g} (products {flops.products:.4g}, causal attention"
        f" {flops.attention:.4g}); with recomputation {flops.executed:.4g}",
    ]
    if flops.seen:
        seen = flops.seen._asdict().items()
        shown = ", ".join(f"{part} {count:.4g}" for part, count in seen if count)
        lines.append(f"  of these by what is seen {flops.seen.total:.4g}: {shown}")
    lines += [
        f"  XLA counts {result.xla_flops:.4g} on a device, loop bodies once and kernels as they say",
        f"roofline: at least {limit.seconds:.4g} s a step, by {limit.by}: compute {limit.compute:.4g}, HBM"
        f" {limit.memory:.4g}, ICI hidden {limit.hidden:.4g}, ICI exposed {limit.exposed:.4g}",
    ]
    if result.mfu:
        lines.append(f"  MFU at most {result.mfu:.1%}")
    return lines


def _collectives(found: list[Collective]) -> list[str]:
    """Grouped by kind, place, size and whether they are hidden; small ones are put together."""
    groups = defaultdict(list)
    for own in found:
        groups[own.kind, own.group, own.bytes, own.hidden, _short(own.where)].append(own)
    ranked = sorted(groups.items(), key=lambda item: -sum(own.total for own in item[1]))
    lines = ["collectives of one device: kind, devices, times x MiB = GiB a step, where"]
    for (kind, group, size, hidden, where), members in ranked[:30]:
        times = sum(own.times for own in members)
        least = "" if all(own.certain for own in members) else ">="
        lines.append(
            f"  {kind:18} {group:5} {least}{times:6} x {size / MIB:9.3f} = {times * size / GIB:9.3f}"
            f"  {'hidden ' if hidden else 'EXPOSED'}  {where}"
        )
    rest = [own for _, members in ranked[30:] for own in members]
    if rest:
        lines.append(f"  and {len(rest)} more, {_gib(sum(own.total for own in rest))}")
    total, exposed = sum(own.total for own in found), sum(own.total for own in found if not own.hidden)
    return [*lines, f"  all: {_gib(total)}, exposed {_gib(exposed)}"]


def _advice(result: Result) -> list[str]:
    lines = ["what a device has to hold, by formula, and what makes it smaller"]
    for what, size, fix in result.estimate:
        if size > result.available / 50:
            lines.append(f"  {_gib(size)}  {what}: {fix}")
    return lines


def _gib(size: float) -> str:
    return f"{size / GIB:7.2f} GiB"


def _short(where: str) -> str:
    """The part of a path of scopes that tells the place: which pass, and the last named scopes."""
    ends = ("jvp", "jit", "vmap", "while", "body", "closed_call", "shard_map", "cond", "checkpoint")
    names = [part for part in where.split("/") if not part.startswith(ends) and "(" not in part]
    again = "again " if "rematted" in where else ""
    turn = "backward " if "transpose(" in where else ""
    names = [name for name in names if name not in ("rematted_computation", "train_step")]
    return f"{again or turn}{'/'.join(names[-4:])}"
