"""launch/local_pod.sh: every host hears of the others, and none is left behind."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "launch" / "local_pod.sh"
SAVES = "trap 'echo saved; exit 143' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def pod(tmp_path):
    """Starts `pod(*arguments)` with logs in tmp_path/logs."""
    started = []

    def start(*arguments, patience="60", through=()):
        env = os.environ | {"LOCAL_POD_LOGS": str(tmp_path / "logs"), "LOCAL_POD_PATIENCE": patience}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(subprocess.Popen([*through, SCRIPT, *arguments], env=env, cwd=tmp_path, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def logs(tmp_path):
    return [path.read_text() for path in sorted((tmp_path / "logs").iterdir())]


def test_hosts_are_told_who_they_are(pod, tmp_path):
    names = ("NUM_PROCESSES", "NUM_CPU_DEVICES", "COORDINATOR_ADDRESS", "PROCESS_ID")
    command = "echo " + " ".join(f"$JAX_{name}" for name in names)
    process = pod("3", "2", "--", "sh", "-c", command)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and not errors
    told = [log.split() for log in logs(tmp_path)]
    assert shown.split() == told[0]
    assert [(row[0], row[1], row[3]) for row in told] == [("3", "2", str(index)) for index in range(3)]
    assert len({row[2] for row in told}) == 1


def test_a_host_that_fails_takes_the_others_along(pod, tmp_path):
    command = "if [ $JAX_PROCESS_ID = 1 ]; then echo why; exit 7; fi; sleep 600"
    process = pod("3", "--", "sh", "-c", command, patience="0.1")
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 7
    log = tmp_path / "logs" / "host_1.log"
    line = f"host 1 of 3 ended with code 7 and took the others along; {log} ends with: why"
    assert errors == f"error: {line}\n"


def test_the_code_of_a_killed_host_is_that_of_a_shell(pod):
    process = pod("1", "--", "sh", "-c", "kill -KILL $$")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL and "host 0 of 1 ended with code 137" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_warning_reaches_all_hosts(pod, tmp_path, number):
    process = pod("2", "--", "sh", "-c", SAVES)
    assert process.stdout.readline() == "up\n"
    while "up" not in "".join(logs(tmp_path)[1:]):
        assert process.poll() is None
    process.send_signal(number)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and not errors
    assert all("saved" in log for log in logs(tmp_path))


def test_a_hangup_is_no_warning_under_nohup(pod, tmp_path):
    command = "kill -HUP $PPID; echo up; until [ -e go ]; do sleep 0.05; done; echo on"
    process = pod("1", "--", "sh", "-c", command, through=["nohup"])
    assert process.stdout.readline() == "up\n"
    (tmp_path / "go").touch()
    assert process.communicate(timeout=60)[0] == "on\n" and process.returncode == 0


def test_a_second_warning_kills(pod):
    process = pod("2", "--", "sh", "-c", "trap 'echo heard' TERM; echo up; while :; do sleep 0.05; done")
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.stdout.readline() in ("heard\n", "Terminated\n")  # sh tells of the sleep that it ended
    process.terminate()
    assert process.wait(timeout=60) == 137


@pytest.mark.parametrize("end", ["kill -KILL $PPID; ", ""])
def test_nothing_is_left_behind(pod, tmp_path, end):
    """A pipe ends when the last one that could write into it has ended: the host, and what it had started."""
    os.mkfifo(tmp_path / "fifo")
    stays = (
        "sleep 600 &" if not end else ""
    )  # the kernel ends the host; only the script ends the host's children
    process = pod("1", "--", "bash", "-c", f"exec 9>{tmp_path}/fifo; {stays} {end or 'exit;'} exec sleep 600")
    assert (tmp_path / "fifo").read_bytes() == b""
    assert process.wait(timeout=60) == (-signal.SIGKILL if end else 0)


@pytest.mark.parametrize(
    "arguments, field",
    [
        ((), "arguments"),
        (("two", "--", "true"), "N: 'two'"),
        (("2", "0", "--", "true"), "M: '0'"),
        (("2", "1", "3", "--", "true"), "arguments"),
        (("2", "--"), "arguments"),
        (("2", "--", "no-such-program"), "COMMAND: 'no-such-program'"),
    ],
)
def test_mistakes_are_one_line(pod, arguments, field):
    process = pod(*arguments)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith(f"error: {field}") and errors.count("\n") == 1
