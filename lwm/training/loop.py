"""Trains any model through its stages; stops and goes on at any step with the same result, bit for bit."""

import contextlib
import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from lwm.data.manifest import load_manifest
from lwm.errors import UserError
from lwm.limits import suggest
from lwm.training import inputs
from lwm.training.agreement import agree
from lwm.training.beginnings import check_init, first_state, parent_folder
from lwm.training.boards import Boards, check_boards
from lwm.training.checkpoints import StageCheckpoints, stage_folder
from lwm.training.decision import together
from lwm.training.experiment import Experiment
from lwm.training.feed import Feed, to_devices
from lwm.training.held_out import HeldOut
from lwm.training.interrupts import Interrupts
from lwm.training.metrics import MetricsLog, read_rows
from lwm.training.plan import Plan, check_space, make_plan
from lwm.training.profile import Trace, Window
from lwm.training.program import train_step
from lwm.training.progress import Report
from lwm.training.provenance import write_start
from lwm.training.recorder import Recorder
from lwm.training.recovery import Standing, find_standing, move_aside
from lwm.training.spikes import Rewinds, Spike, gave_up, rewinds_until
from lwm.training.stages import Stage
from lwm.training.state import TrainState
from lwm.training.step import make_eval_step
from lwm.training.watch import Watch
from lwm.training.workdir import check_resume, check_workdir, check_writable, write_config, writing


class Run(NamedTuple):
    """What all stages share."""

    experiment: Experiment
    workdir: epath.Path
    log: MetricsLog
    report: Report
    interrupts: Interrupts
    watch: Watch
    profile: Window | None
    at_peak: Callable[[Plan], float | None]


def train(
    experiment: Experiment,
    workdir: epath.PathLike,
    *,
    build_model: Callable[[Stage], Any],
    manifest: dict | None = None,
    open_batches: Callable[..., Any] = inputs.open_batches,
    resume: str = "auto",
    stop_after: str = "",
    profile: Window | None = None,
    boards: Sequence[str] = (),
    at_peak: Callable[[Plan], float | None] = lambda plan: None,
) -> signal.Signals | None:
    """Runs all stages that are not done yet.

    Everything is checked first. Then config.json is written, and each stage goes on from its last checkpoint
    that is whole (see `recovery`) or begins with the weights of the stage before it (see `beginnings`) and
    with a new optimizer, schedule and data stream, as LWM's stages do: each is a run of its own (2402.08268,
    section 3.1).

    Args:
      experiment: see `experiment.build_experiment`.
      workdir: a new folder, or that of an earlier part of this run.
      build_model: the model of a stage; only theta and the loss weights may differ from stage to stage.
      manifest: data.json of the data folder, None = read it from `experiment.data.path`.
      open_batches: where batches come from, see `inputs.open_batches`.
      resume: "auto", "never" = the workdir must be new, "must" = it must hold a checkpoint.
      stop_after: name of the last stage to run, "" = all.
      profile: steps to trace, see `profile.parse_window`.
      boards: where the rows of metrics.jsonl are shown as well, see `boards`.
      at_peak: seconds of a step of a stage at the peak rate of the devices, None = not known.

    Returns:
      The signal that ended the run early (its state is saved), None if it ran to the end.

    Raises:
      UserError: a field, the data folder, the workdir or a host is not in order, and nothing has been
        written; or losses are not finite, or the disk is full or read-only, and what was saved before stays;
        or all checkpoints that one could go on with are damaged.
    """
    workdir, names = epath.Path(workdir), list(experiment.stages)
    if stop_after and stop_after not in names:
        raise UserError(f"stop_after: {stop_after!r} is no stage; {suggest(stop_after, names)}")
    config = dataclasses.asdict(experiment)
    with Report(silent=jax.process_index() > 0) as report, Interrupts() as interrupts, writing(workdir):
        if warning := agree(config):
            report.say(warning)

        def look() -> Standing:
            check_boards(boards)
            check_workdir(workdir, config)
            check_resume(workdir, resume, names)
            return find_standing([stage_folder(workdir, *pair) for pair in enumerate(names)], report.say)

        standing = Standing(*together(look))
        todo = [
            index
            for index, stage in enumerate(experiment.stages.values())
            if (index, stage.steps) > (standing.stage, standing.step)
        ]
        if not todo:
            report.say(
                f"{workdir}: all {len(names)} stages of {experiment.experiment} are done, nothing is left"
            )
            return None
        manifest = manifest or _manifest(experiment)
        plans = [make_plan(experiment, index, build_model, manifest, open_batches) for index in todo]
        check_writable(workdir)
        # A run that may go back can keep one more, see `StageCheckpoints`.
        keep = experiment.checkpoint.keep
        check_space(workdir, plans, keep and keep + (experiment.guards.spike > 0))
        if experiment.init and (standing.stage, standing.step) == (0, 0):
            check_init(plans[0], experiment, parent_folder(experiment, workdir, 0))

        log = MetricsLog(workdir / "metrics.jsonl")

        def begin() -> None:
            write_config(workdir, config)
            models = {plan.stage.name: plan.model.config for plan in plans}
            write_start(workdir, config, models, jax.devices())
            move_aside(standing, report.say)
            log.boards = Boards(boards, workdir, experiment)

        together(begin)
        minutes = experiment.guards.hang_minutes
        host = dict(index=jax.process_index(), hosts=jax.process_count(), minutes=minutes)
        with contextlib.closing(log), Watch(workdir, **host) as watch:
            run = Run(experiment, workdir, log, report, interrupts, watch, profile, at_peak)
            asked = [plan for plan in plans if plan.index <= names.index(stop_after or names[-1])]
            for plan in asked:
                step, (name, steps) = _run_stage(plan, run), (plan.stage.name, plan.stage.steps)
                if interrupts.received and (step < steps or plan is not asked[-1]):
                    report.say(f"{name} · stopped and saved at step {step} of {steps}; run again to go on")
                    return interrupts.received
        return None


def _run_stage(plan: Plan, run: Run) -> int:
    """Runs or continues one stage, to its end or until `run.interrupts` has received a signal; its step."""
    stage, experiment = plan.stage, run.experiment
    run.watch.enter(stage.name, plan.index, 0, "starting")
    with (
        jax.set_mesh(plan.mesh),
        StageCheckpoints(
            stage_folder(run.workdir, plan.index, stage.name),
            about={"config": dataclasses.asdict(experiment), "stage": dataclasses.asdict(stage)},
            steps=stage.steps,
            every=stage.checkpoint_every,
            keep=experiment.checkpoint.keep,
            rewinds=experiment.guards.spike > 0,
        ) as saved,
    ):
        held_out = HeldOut(
            make_eval_step(plan.model),
            functools.partial(plan.stream, split="heldout", seed=experiment.seed),
            functools.partial(to_devices, shapes=plan.batch, shardings=plan.batch_shardings),
            stage.eval_batches,
        )
        step = saved.latest or 0
        run.report.begin(stage.name, step, stage.steps)
        step = _run_from(step, plan, saved, held_out, run)
        while step < stage.steps and not run.interrupts.received:
            step = _run_from(step, plan, saved, held_out, run)
    return step


def _run_from(step: int, plan: Plan, saved: StageCheckpoints, held_out: HeldOut, run: Run) -> int:
    """Restores or begins the state and trains; the last step, or the one that a spike made it go back to."""
    stage, experiment, names = plan.stage, run.experiment, list(run.experiment.stages)
    # Another seed than in the stages before, or each of them would begin with the same documents.
    batches, losses = plan.stream(split="train", seed=experiment.seed * 1000 + plan.index), ()
    if step:
        state, position = saved.restore(step, plan.state)
        losses = position.pop("losses", ())
        batches.set_state(position)
    else:
        state = first_state(plan, experiment, run.workdir)
    rewinds = Rewinds(*together(lambda: rewinds_until(read_rows(run.log.path), stage.name, step)))
    for _ in range(rewinds.batches):
        next(batches)
    writes = jax.process_index() == 0
    recorder = Recorder(
        stage,
        log=run.log if writes else None,
        report=run.report,
        log_every=experiment.log_every,
        units_before=plan.units_before,
        seconds=run.log.rewind(names[: plan.index], stage.name, step) if writes else 0.0,
        workdir=run.workdir,
        limits=experiment.guards,
        losses=losses,
        rewinds=rewinds.total,
        at_peak=run.at_peak(plan),
    )
    try:
        with Feed(batches, plan.batch, plan.batch_shardings) as feed:
            return _train_from(step, state, plan, feed, saved, recorder, held_out, run)
    except Spike as spike:
        if rewinds.total >= experiment.guards.rewinds:
            raise gave_up(stage, spike, rewinds.total) from None
        run.watch.enter(stage.name, plan.index, step, "starting")
        step = saved.go_back()
        recorder.rewind_row(spike, step)
        return step


def _train_from(
    step: int,
    state: TrainState,
    plan: Plan,
    feed: Feed,
    saved: StageCheckpoints,
    recorder: Recorder,
    held_out: HeldOut,
    run: Run,
) -> int:
    """Takes steps until the stage ends or somebody ends it; the last step, which is saved."""
    stage, step_of_stage = plan.stage, train_step(plan)
    compiled, unread, stopping = None, None, False
    window = run.profile if run.profile and run.profile.stage == stage.name else None

    def enter(step: int, what: str) -> None:
        recorder.enter(what)
        run.watch.enter(stage.name, plan.index, step, what)

    with Trace(window if jax.process_index() == 0 else None, run.workdir / "profile") as trace:
        while step < stage.steps and not stopping:
            enter(step, "waiting")
            fed = next(feed)
            if compiled is None:
                enter(step, "compiling")
                began = time.monotonic()
                compiled = step_of_stage.lower(state, fed.batch).compile()
                recorder.start(step, compiled_in=time.monotonic() - began)
            step += 1
            enter(step, "in_steps")
            trace.before(step)
            with jax.transfer_guard("disallow"):
                state, metrics = compiled(state, fed.batch)
            trace.after(step, metrics)
            # The metrics of the step before: while they are waited for, this step is already under way. No
            # host runs further ahead than that, which processes on CPUs would not survive.
            if unread:
                recorder.train_row(*unread)
            unread = (step, metrics, fed.batch)
            stopping = run.interrupts.stop_here()
            saving = saved.due(step) or stopping
            evaluating = stage.eval_every and (step % stage.eval_every == 0 or step == stage.steps)
            if saving or evaluating:
                recorder.train_row(*unread)
                unread = None
                if evaluating:
                    enter(step, "evaluating")
                    recorder.eval_row(step, held_out(state.params, state.key))
                if saving:
                    enter(step, "saving")
                    losses = {"losses": recorder.losses} if recorder.losses else {}
                    saved.save(step, state, fed.position | losses)
    return step


def _manifest(experiment: Experiment) -> dict:
    if not experiment.data.path:
        raise UserError(
            "config.data.path: '' is no folder; give one made by python -m lwm.prepare, or --data"
        )
    if any(stage.of_tasks for stage in experiment.stages.values()):
        from lwm.data.task_records import load_tasks

        return load_tasks(experiment.data.path)
    return load_manifest(experiment.data.path)
