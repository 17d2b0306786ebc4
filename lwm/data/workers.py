"""Processes or machines that prepare data: Apache Beam, which TFDS can write with.

Workers and the process that starts them need a common file system for input and output, and the same
packages. Beam is an extra: nothing here imports it before it is asked for.
"""

import contextlib
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from lwm.errors import UserError

RUNNERS = ("DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner")
_AGAIN = "what is finished is kept: mend that, or give more memory, and run the same command again"
_FOLLOWERS = ("beam_control_read", "read_grpc_client_inputs")  # threads of Beam that fail with a worker


class Workers(NamedTuple):
    """Where Beam works. runner: of `RUNNERS` · options: as Beam takes them, "--name=value"."""

    runner: str
    options: tuple[str, ...] = ()

    def pipeline_options(self):
        """Returns Beam's PipelineOptions, new ones: a pipeline changes its own."""
        from apache_beam.options.pipeline_options import PipelineOptions

        return PipelineOptions(list(self.options))

    def pipeline_runner(self):
        """Returns Beam's runner. Raises ImportError if it needs packages that are not there."""
        if self.runner == "DirectRunner":
            # What Beam calls so first downloads another engine, and falls back on this one.
            from apache_beam.runners.portability.fn_api_runner import FnApiRunner

            return FnApiRunner()
        from apache_beam.runners.runner import create_runner

        return create_runner(self.runner)

    def each(self, function: Callable[[Any], None], items: Sequence) -> None:
        """Calls `function`, one that Beam can send (see `recipes.Recipe`), on each item, in any order.

        Beam may call it twice on an item, even at the same time. Raises UserError if it fails.
        """
        import apache_beam as beam

        if not items:
            return
        with self.answering():
            pipeline = beam.Pipeline(runner=self.pipeline_runner(), options=self.pipeline_options())
            _ = pipeline | beam.Create(items).with_output_types(Any) | beam.Map(function)
            pipeline.run().wait_until_finish()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Turns a pipeline that fails into one line, and ends this process if a local worker process dies.

        Beam's local runner waits for ever for a worker that is gone, and cannot be stopped: hence `os._exit`.
        The other workers would first finish what they have been given, beside those of the next attempt.
        """
        dying = threading.Lock()

        def ended(failure):
            if failure.thread and failure.thread.name == "run_worker":
                if dying.acquire(blocking=False):  # not for those that end here
                    print(f"error: beam_runner: {failure.exc_value}; {_AGAIN}", file=sys.stderr, flush=True)
                    _kill_children()
                    os._exit(1)
            elif failure.thread and failure.thread.name not in _FOLLOWERS:
                before(failure)

        before, threading.excepthook = threading.excepthook, ended
        try:
            yield
        except (OSError, UserError):
            raise
        except Exception as error:
            reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[-1].split())
            raise UserError(f"beam_runner: {self.runner} failed ({reason}); {_AGAIN}") from error
        finally:
            threading.excepthook = before


def check_workers(runner: str | None, options: Sequence[str] = ()) -> Workers | None:
    """Returns the `Workers` that flags ask for, None without a runner.

    Args:
      runner: one of `RUNNERS`, or None.
      options: "name=value", of Beam's pipeline or of the runner.

    Raises:
      UserError: they make no sense, or Beam, or what the runner needs, is not installed.
    """
    if not runner:
        if options:
            raise UserError(
                f"beam_options: {options[0]} is for Beam; give --beam_runner=DirectRunner as well"
            )
        return None
    if runner not in RUNNERS:
        raise UserError(f"beam_runner: {runner} is not known; give one of {', '.join(RUNNERS)}")
    for option in options:
        if not re.fullmatch(r"[a-z][a-z0-9_]*=.+", option) or option.startswith("runner="):
            raise UserError(
                f"beam_options: {option!r} is no name=value; give for example direct_num_workers=2"
            )
    workers = Workers(runner, tuple(f"--{option}" for option in options))
    try:
        with _unheard() as said:
            from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

            asked = workers.pipeline_options()
            known = asked.get_all_options()
            wrong = PipelineOptionsValidator(asked, workers.pipeline_runner()).validate()
    except SystemExit:
        reason = said.getvalue().strip().splitlines()[-1].split("error: ")[-1]
        raise UserError(f"beam_options: {reason}; mend or leave it out") from None
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "apache_beam":
            reason = (
                'Apache Beam is not installed); pip install "apache-beam==2.77.*", which is the extra beam'
            )
        else:
            reason = f"{str(error).splitlines()[0]}); install what it needs"
        raise UserError(f"beam_runner: {runner} cannot start ({reason}") from None
    if wrong:
        raise UserError(f"beam_options: {' '.join(wrong[0].split())}")
    for option in options:
        # Flink and Spark know more options than Beam, and say so when they are reached.
        if runner == "DirectRunner" and (name := option.partition("=")[0]) not in known:
            raise UserError(f"beam_options: {name} is no option of Beam's; see its PipelineOptions")
    return workers


def _kill_children() -> None:
    """Kills the processes that this one has started, and theirs: Beam starts workers by way of a shell."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@contextlib.contextmanager
def _unheard() -> Iterator[io.StringIO]:
    """Keeps warnings of Beam and what its parser of options says from the terminal; yields the latter."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            yield said
    finally:
        logging.disable(before)
