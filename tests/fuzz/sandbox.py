"""What reading an input may not do, and what it did.

A sandbox is a folder INSIDE; beside it lies OUTSIDE/secret, which nothing has to read. Refused, and
remembered should a parser swallow the refusal: writing, renaming, removing or linking outside of the sandbox,
reading anything beside it, starting programs, opening connections. What libraries in C open by themselves is
not seen.
"""

import contextlib
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

from lwm.errors import UserError
from tests.fuzz.target import Target

INSIDE, OUTSIDE = "inside", "outside"
MEMORY = 2**30  # bytes that an input may take
SECONDS = 10  # of processor time that it may take
LONGEST = 2000  # characters of a refusal
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MOVES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
)
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn")
_NEVER += ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")


class Escape(BaseException):
    """An input made a parser do what it must not; no `except Exception` takes it for damage."""


class Hang(BaseException):
    """An input took too long."""


class Sandbox:
    """Watches this process for good; to be made in a process that reads inputs and does nothing else.

    base: a folder that holds INSIDE and OUTSIDE, see `lay`.
    """

    def __init__(self, base: Path):
        self.inside = base / INSIDE
        self._base, self._own = os.path.realpath(base) + os.sep, os.path.realpath(self.inside) + os.sep
        self._active, self._escapes = False, []
        sys.addaudithook(self._watch)
        signal.signal(signal.SIGPROF, _hang)

    def attempt(self, target: Target, content: bytes) -> str | None:
        """Reads an input: "parsed", "refused", or else why it is a finding."""
        path = self.inside / target.file
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        _allow(MEMORY)
        self._active, self._escapes = True, []
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            outcome = _outcome(target, path)
        except Hang:
            outcome = f"hang: more than {SECONDS} s"
        except Escape as error:
            outcome = f"escape: {error}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._active = False
            _allow(None)
        return f"escape: {self._escapes[0]}" if self._escapes else outcome

    def _watch(self, event: str, arguments: tuple) -> None:
        if not self._active:
            return
        if event == "open":
            name, mode, flags = arguments
            if isinstance(name, int) or name is None:
                return
            path = os.path.realpath(os.fsdecode(name))
            writes = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & _WRITES
            if not self._mine(path) and (path.startswith(self._base) or (writes and path != os.devnull)):
                self._refuse(f"open {path} {mode}")
        elif event in _MOVES:
            names = [name for name in arguments if isinstance(name, str | bytes | os.PathLike)]
            # A link is as bad as what it points to.
            if not all(self._mine(os.path.realpath(os.fsdecode(name))) for name in names):
                self._refuse(f"{event} {names}")
        elif event in _NEVER:
            self._refuse(f"{event} {arguments[:2]}"[:200])

    def _mine(self, path: str) -> bool:
        return f"{path}{os.sep}".startswith(self._own)

    def _refuse(self, what: str) -> None:
        self._escapes.append(what)
        raise Escape(what)


def lay(base: Path, target: Target) -> None:
    """Makes the folders of a sandbox and what lies around the file of a target."""
    for name in (INSIDE, OUTSIDE):
        (base / name).mkdir()
    (base / OUTSIDE / "secret").write_text("{}")
    (base / INSIDE / target.file).parent.mkdir(parents=True, exist_ok=True)
    target.lay(base / INSIDE)


def _outcome(target: Target, path: Path) -> str:
    try:
        target.read(path)
    except UserError as error:
        lines = str(error).splitlines()
        if len(lines) == 1 or (lines and target.many):
            return "refused" if len(str(error)) <= LONGEST else f"refusal of {len(str(error))} characters"
        return f"refusal of {len(lines)} lines"
    except MemoryError:
        return f"memory: more than {MEMORY >> 20} MiB, {_place()}"
    except RecursionError:
        return f"RecursionError, {_place()}"
    except (Escape, Hang):
        raise
    except BaseException as error:
        return f"{type(error).__name__} {_place()}: {str(error)[:100]!r}"
    return "parsed"


def _place() -> str:
    """The last line of ours that the exception under way passed."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if "/lwm/" in frame.filename or "/experiments/" in frame.filename]
    return " ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (ours or frames)[-1:])


def _hang(number: int, frame: object) -> None:
    raise Hang


def _allow(more: int | None) -> None:
    """Limits the memory of this process to so much beyond what it has now; None = lifts the limit."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = hard
    if more is not None:
        with contextlib.suppress(OSError), open("/proc/self/status") as status:
            held = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
            limit = 1024 * held + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
