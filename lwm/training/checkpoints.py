"""One Orbax folder per stage: WORKDIR/stages/<index>_<name>/<step>/{params, rest, position, about}.

    params     the parameters, apart from the rest so that samplers and later stages read nothing else
    rest       step, optimizer moments and random key of the state
    position   where the data iterator stands, all hosts together (JSON); with the last losses, see `spikes`
    about      the stage and the whole config it was run with (JSON)

A checkpoint appears under its step when it is complete and sealed (see `seals`) and never before; nothing is
written twice.
"""

import errno
import functools
import json
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import checkpoint_managers as policies

from lwm.errors import UserError
from lwm.json_text import check_fields, read_block
from lwm.parallel import sharding
from lwm.training.decision import exchange, together
from lwm.training.recovery import Damaged, saved_steps, whole_step
from lwm.training.seals import MARK, damage, sealing
from lwm.training.state import TrainState, with_shardings

_PIECE = 2**26  # bytes
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StageCheckpoints:
    """The checkpoints of the stage that is training; as a context manager it waits for the last save."""

    def __init__(
        self, folder: epath.Path, *, about: dict, steps: int, every: int, keep: int, rewinds: bool = False
    ):
        """Opens the folder; leftovers of saves that were cut short are swept away.

        Args:
          folder: see `stage_folder`.
          about: {"config", "stage"}, JSON that goes with every checkpoint.
          steps: the last step, always saved.
          every: saves every so many steps too (0 = no).
          keep: complete checkpoints of this stage that stay, the newest ones; 0 = all.
          rewinds: that which `go_back` goes back to stays, too.
        """
        stay = [policies.LatestN(keep or None)] + ([_NewestDue(every)] if rewinds and every else [])
        when = [policies.SpecificStepsPolicy([steps])]
        when += [policies.FixedIntervalPolicy(every)] if every else []
        self.folder, self._about, self._every = folder, about | MARK, every
        self._manager = _Manager(
            folder,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.AnySavePolicy(when),
                preservation_policy=policies.AnyPreservationPolicy(stay),
                cleanup_tmp_directories=True,
                async_options=sealing(folder),
            ),
        )

    def __enter__(self) -> "StageCheckpoints":
        logging.getLogger("absl").addFilter(_raised_anyway)
        return self

    def __exit__(self, *failure) -> None:
        try:
            self._guard(self._manager.close)
        finally:
            logging.getLogger("absl").removeFilter(_raised_anyway)

    @property
    def latest(self) -> int | None:
        """The newest complete step."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether the policies ask for a checkpoint after this step."""
        return self._manager.should_save(step)

    def save(self, step: int, state: TrainState, position: dict) -> None:
        """Copies the state and writes it in the background; the state may be donated as soon as this returns.

        Raises:
          UserError: the disk is full (now, or while the checkpoint before this one was written).
        """
        if self.latest == step:
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(state._replace(params=None)._asdict()),
            position=ocp.args.JsonSave(_gather(position)),
            about=ocp.args.JsonSave(self._about),
        )
        self._guard(lambda: self._manager.save(step, args=items, force=True))

    def restore(self, step: int, shapes: TrainState) -> tuple[TrainState, dict]:
        """Reads a state straight onto the shardings of `shapes`, and the position of the data."""
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(shapes.params),
                rest=ocp.args.StandardRestore(shapes._replace(params=None)._asdict()),
                position=ocp.args.JsonRestore(),
            ),
        )
        return TrainState(**(items["rest"] | {"params": items["params"]})), items["position"]

    def go_back(self) -> int:
        """The newest checkpoint that was due by `every`; 0 = none, the stage begins again.

        What a signal saved after it is deleted: to where a run goes back must not depend on signals.

        Raises:
          UserError: that checkpoint is damaged.
        """
        self._guard(self._manager.wait_until_finished)
        steps = self._manager.all_steps()
        newest = max(_due(steps, self._every), default=0)
        for step in steps:
            if step > newest:
                self._manager.delete(step)
        path = self.folder / str(newest)
        if newest and (what := together(lambda: damage(path))):
            raise UserError(
                f"{Damaged(str(path), what)}; run the same command again: it goes on from the one before"
            )
        return newest

    def _guard(self, action) -> None:
        try:
            action()
        except Exception as error:
            if "No space left" in str(error) or getattr(error, "errno", None) in _FULL:
                raise UserError(
                    f"{self.folder}: no space left for a checkpoint; free some and run the same "
                    f"command again: it goes on from step {latest_step(self.folder) or 0}"
                ) from error
            raise


class _NewestDue(policies.PreservationPolicy):
    """Keeps the newest of the checkpoints that come every so many steps."""

    def __init__(self, every: int):
        self._every = every

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = max(_due(steps, self._every), default=None)
        return [step == newest for step in steps]


class _Manager(ocp.CheckpointManager):
    """Leaves it to `Interrupts` to ask jax.distributed for warnings, who counts in numbers of its own."""

    def reached_preemption(self, step: int) -> bool:
        return False


def stage_folder(workdir: epath.PathLike, index: int, name: str) -> epath.Path:
    """WORKDIR/stages/<index>_<name>, absolute, as Orbax wants it.

    Raises:
      UserError: the name would lead out of the workdir.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise UserError(
            f"workdir: {workdir} has a stage {name!r}; a name has letters, digits, _, - and . alone"
        )
    workdir = epath.Path(workdir)
    return (workdir if "://" in str(workdir) else workdir.absolute()) / "stages" / f"{index}_{name}"


def latest_step(folder: epath.Path) -> int | None:
    """The newest complete checkpoint in a stage's folder, damaged or not; None if there is none."""
    return max(saved_steps(folder), default=None)


def latest_stage(workdir: epath.PathLike, names: Sequence[str]) -> str | None:
    """Name of the last stage with a checkpoint."""
    have = [
        name
        for index, name in enumerate(names)
        if latest_step(stage_folder(workdir, index, name)) is not None
    ]
    return have[-1] if have else None


def saved_params(folder: epath.Path, step: int) -> Any:
    """Tree of the parameters in a stage's folder as `jax.ShapeDtypeStruct`s; they are not read."""
    tree = ocp.StandardCheckpointHandler().metadata(folder / str(step) / "params").tree
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def restore_params(folder: epath.Path, step: int, shapes: Any) -> Any:
    """Reads the parameters in a stage's folder onto the shardings of `shapes`, their tree.

    Args:
      step: a whole one, see `recovery.whole_step`.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder / str(step) / "params", shapes)


def write_params(folder: epath.Path, params: Any, about: dict) -> None:
    """Writes parameters that no training made into a stage's folder, as its checkpoint of step 0.

    They are written in pieces, each in a file of its own as soon as it is compressed: what Orbax collects in
    memory before it writes must not come near to a second copy of the model.

    Args:
      about: see `StageCheckpoints`.
    """
    # Orbax refuses a shard that is larger than what may be on its way to the disk.
    largest = max(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params))
    handlers = {
        "params": ocp.StandardCheckpointHandler(save_concurrent_gb=largest // 10**9 + 1, use_ocdbt=False),
        "about": ocp.JsonCheckpointHandler(),
    }
    pieces = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_PIECE), params)
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(params, save_args=pieces), about=ocp.args.JsonSave(about | MARK)
    )
    options = ocp.CheckpointManagerOptions(async_options=sealing(folder))
    with ocp.CheckpointManager(folder, item_handlers=handlers, options=options) as manager:
        manager.save(0, args=items, force=True)


def load_params(
    workdir: epath.PathLike,
    stage: str | None = None,
    mesh: Mesh | None = None,
    rules: sharding.Rules | None = None,
) -> tuple[dict, dict, Any]:
    """The trained parameters of a workdir, for sampling, evaluation or a notebook.

    Args:
      workdir: of `python -m lwm.train`.
      stage: name of the stage, None = the last one that has a checkpoint.
      mesh: None = everything on one device.
      rules: a model's PARTITION_RULES for the mesh, None = everything on every device.

    Returns:
      (config, stage block, params): the config and the stage as nested dicts as they were run, with every
      default filled in; the parameters as a nested dict of jax.Array.

    Raises:
      UserError: no run, no such stage, no checkpoint there, or none that is whole. (Damaged ones that are
        newer than the one that is read are told on stderr.)
    """
    workdir = epath.Path(workdir)
    if not (workdir / "config.json").exists():
        raise UserError(
            f"workdir: {workdir} holds no config.json; give a folder that python -m lwm.train has filled"
        )
    written = read_block(workdir / "config.json", fix="give a folder that python -m lwm.train has filled")
    check_fields(workdir / "config.json", written, {"stages": dict[str, dict]})
    names = list(written.get("stages") or {})
    if stage is not None and stage not in names:
        raise UserError(f"stage: {stage!r} is not in {workdir}; choose from {', '.join(names)}")
    name = stage or latest_stage(workdir, names)
    if name is None or latest_step(stage_folder(workdir, names.index(name), name)) is None:
        raise UserError(
            f"workdir: {workdir} has no checkpoint of {name or 'any stage'} yet; let it train longer"
        )
    folder = stage_folder(workdir, names.index(name), name)
    step = whole_step(folder)
    about = json.loads((folder / str(step) / "about" / "metadata").read_text())
    shapes = saved_params(folder, step)
    if mesh is None:
        layout = jax.tree.map(lambda leaf: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), shapes)
    elif rules is None:
        layout = jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), shapes)
    else:
        layout = sharding.shardings(rules, shapes, mesh)
    return about["config"], about["stage"], restore_params(folder, step, with_shardings(shapes, layout))


def _due(steps: Iterable[int], every: int) -> list[int]:
    return [step for step in steps if every and step % every == 0]


def _gather(position: dict) -> dict:
    """The positions of all hosts as one (Orbax writes JSON from the first host only).

    Hosts agree on all but the lanes that they list, so that any number of hosts can go on from the union.
    """
    if jax.process_count() == 1:
        return position
    return functools.reduce(_union, map(json.loads, exchange(json.dumps(position))))


def _union(a: Any, b: Any) -> Any:
    if not isinstance(a, dict):
        return a
    return {name: _union(a[name], b[name]) if name in a and name in b else (a | b)[name] for name in a | b}


def _raised_anyway(record: logging.LogRecord) -> bool:
    """Keeps out what Orbax logs of a save that failed in the background: the next one raises it."""
    return not (record.exc_info and "orbax" in record.pathname)
