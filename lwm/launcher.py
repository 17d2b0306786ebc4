"""What every verb does before its own work: flags, devices, and one-line errors.

Kept apart from the verbs so that `python -m lwm.<verb> --help` needs neither JAX nor a device.
"""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from lwm.errors import UserError

CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Run on this many virtual CPU devices (0: those that JAX finds).", lower_bound=0
)

PARTING = 10  # seconds that a host which failed stays, for others that fail alike to have their last word


def launch(main: Callable[[], None]) -> None:
    """Parses flags, runs `main()`; a `UserError` becomes one line on stderr and exit code 2."""

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(f"argument {argv[1]!r} is not a flag; write --name=value, see --help")
        logging.set_verbosity(logging.WARNING)
        try:
            with _leaving_soon():
                main()
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno is None:
                raise
            _fail(f"{error.filename or 'file system'}: {error.strerror}; free space or choose another folder")

    try:
        app.run(guarded, flags_parser=_parse_flags)
    except flags.Error as error:
        _fail(str(error).splitlines()[0])


def start_devices() -> None:
    """Chooses the devices: virtual CPU devices if asked for, and those of all hosts where there are several.

    A Cloud TPU finds its hosts and slices by itself, on VMs as on GKE. Anywhere else (`launch/local_pod.sh`)
    hosts are joined by JAX_COORDINATOR_ADDRESS, host 0 and a free port of it, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID; JAX_NUM_PROCESSES=1 keeps a host of a pod to itself.

    Raises:
      UserError: one of the three is missing or wrong.
    """
    import jax

    if CPU_DEVICES.value:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", CPU_DEVICES.value)
        # A collective under way blocks a thread of each device that waits in it. With one thread a device,
        # XLA's default, devices that came to them in unlike orders blocked all threads and waited for ever.
        os.environ.setdefault("NPROC", str(4 * CPU_DEVICES.value))
    if os.environ.get("JAX_NUM_PROCESSES"):
        hosts = _whole("JAX_NUM_PROCESSES", 1, 10**6)
        if hosts > 1:
            index = _whole("JAX_PROCESS_ID", 0, hosts - 1)
            address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
            if not re.fullmatch(r".+:[0-9]+", address):
                raise UserError(
                    f"JAX_COORDINATOR_ADDRESS: {address!r} is no HOST:PORT; give host 0 and a free port"
                )
            jax.distributed.initialize(address, hosts, index, cluster_detection_method="deactivate")
    elif "tpu" in (jax.config.jax_platforms or ""):  # which JAX sets where it finds chips
        jax.distributed.initialize()


def refuse_flags(*chosen: flags.FlagHolder, why: str) -> None:
    """Raises UserError for the first of the flags that was given."""
    for flag in chosen:
        if flag.present:
            raise UserError(f"{flag.name}: {flag.value} {why}; leave it out")


@contextlib.contextmanager
def _leaving_soon() -> Iterator[None]:
    """Ends this process some seconds after an error, if it is one of several.

    At its end JAX waits for all other processes, five minutes; they wait for this one in a collective, and
    nobody would know. Once it is gone the others hear of it.
    """
    try:
        yield
    except Exception as error:
        jax = sys.modules.get("jax")
        if jax and jax.distributed.is_initialized():
            code = 2 if isinstance(error, UserError | OSError) else 1
            timer = threading.Timer(PARTING, os._exit, (code,))
            timer.daemon = True
            timer.start()
        raise


def _whole(variable: str, least: int, most: int) -> int:
    text = os.environ.get(variable, "")
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise UserError(f"{variable}: {text!r} is no number from {least} to {most}; set it on each host")
    return int(text)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        lines = str(error).strip().splitlines()
        # An error inside a config file comes as a heading, a traceback and, last, the reason.
        _fail(lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}")


def _fail(lines: str) -> None:
    for line in lines.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
