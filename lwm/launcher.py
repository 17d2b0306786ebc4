"""What every verb does before its own work: flags, devices, and one-line errors.

Kept apart from the verbs so that `python -m lwm.<verb> --help` needs neither JAX nor a device.
"""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from lwm.errors import UserError

CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Run on this many virtual CPU devices (0: those that JAX finds).", lower_bound=0
)


def launch(main: Callable[[], None]) -> None:
    """Parses flags, runs `main()`; a `UserError` becomes one line on stderr and exit code 2."""

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(f"argument {argv[1]!r} is not a flag; write --name=value, see --help")
        logging.set_verbosity(logging.WARNING)
        try:
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
    """Chooses the devices: virtual CPU devices if asked for, the whole pod when a cluster is found.

    On Cloud TPU `jax.distributed.initialize()` finds every host by itself; on one plain machine there is
    nothing to join and it is not called.
    """
    import os

    import jax

    if CPU_DEVICES.value:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", CPU_DEVICES.value)
        # A collective under way blocks a thread of each device that waits in it. With one thread a device,
        # XLA's default, devices that came to them in unlike orders blocked all threads and waited for ever.
        os.environ.setdefault("NPROC", str(4 * CPU_DEVICES.value))
    elif "TPU_WORKER_HOSTNAMES" in os.environ and "," in os.environ["TPU_WORKER_HOSTNAMES"]:
        jax.distributed.initialize()


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
