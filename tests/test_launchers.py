"""The launchers for clouds: every command they would run has documented flags, and nothing of it is a string.

FLAGS was written after the references of Google Cloud CLI 528, xpk 1.16, Docker and kubectl; stubs of them
refuse all else. Where xpk is installed, its own parser reads the commands too.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
TPUS = "gcloud compute tpus"
FLAGS = {
    f"{TPUS} queued-resources create": "zone project accelerator-type runtime-version node-id node-count "
    "node-prefix spot metadata metadata-from-file scopes",
    f"{TPUS} queued-resources describe": "zone project format",
    f"{TPUS} queued-resources delete": "zone project force quiet",
    f"{TPUS} queued-resources list": "zone project",
    f"{TPUS} tpu-vm ssh": "zone project worker command",
    "gcloud storage cp": "",
    "gcloud storage cat": "",
    "xpk cluster create": "cluster zone project tpu-type num-slices on-demand spot",
    "xpk workload create": "workload cluster zone project tpu-type num-slices docker-image max-restarts "
    "restart-on-exit-codes termination-grace-period-seconds command",
    "xpk workload list": "cluster zone project",
    "xpk workload delete": "workload cluster zone project",
    "docker build": "tag file",
    "docker push": "",
    "kubectl logs": "follow selector",
}
# gs:// is a folder; a call that FLAGS does not have ends with 64; a request is suspended at first.
STUB = """#!{python}
import json, os, pathlib, shutil, sys
home = pathlib.Path({home!r})
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
words = " ".join(call)
flags = next((flags for name, flags in json.loads({flags!r}).items() if words.startswith(name + " ")), None)
used = [word.split("=")[0][2:] for word in call if word.startswith("--")]
if flags is None or not set(used) <= set(flags.split()):
    sys.exit(64)
with (home / "calls").open("a") as file:
    file.write(json.dumps(call) + "\\n")
place = lambda name: home / name[5:] if name.startswith("gs://") else pathlib.Path(name)
if call[1:3] == ["storage", "cat"]:
    print(place(call[3]).read_text(), end="")
elif call[1:3] == ["storage", "cp"]:
    *sources, target = map(place, call[3:])
    if call[-1].endswith("/"):
        target.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if str(source) == "-":
            target.write_bytes(sys.stdin.buffer.read())
        else:
            shutil.copy(source, target)
elif "describe" in call:
    asked = home / "asked"
    print("SUSPENDED" if not asked.exists() else "ACTIVE")
    asked.touch()
    if (home / "ends").exists():
        place("gs://mine/jobs/run1/result").write_text("0")
    (home / "ends").touch()
"""
WHERE = ["--zone=us-east5-a", "--project=p1"]
COMMAND = ["--", "python", "-m", "lwm.train", "--workdir=gs://mine/$(ruin) 'a';b", "--config=x.py"]
TPU = ["run1", *WHERE, "--type=v5p-128", "--bucket=mine"]
GKE = ["run1", *WHERE, "--cluster=c1", "--type=v5p-128", "--registry=eu.pkg.dev/p1/lwm"]
CASES = {
    "tpu_vm.sh create": [*TPU, *COMMAND],
    "tpu_vm.sh create, two spot slices": [*TPU, "--slices=2", "--spot", *COMMAND],
    "tpu_vm.sh keep": TPU,
    "tpu_vm.sh logs": ["run1", *WHERE, "--slice=1", "--host=3"],
    "tpu_vm.sh list": WHERE,
    "tpu_vm.sh delete": ["run1", *WHERE],
    "gke.sh cluster": [*WHERE, "--cluster=c1", "--type=v6e-16", "--spot"],
    "gke.sh create": [*GKE, *COMMAND],
    "gke.sh create, two slices": [*GKE, "--slices=2", "--restarts=3", *COMMAND],
    "gke.sh logs": ["run1", "--slice=1", "--host=3"],
    "gke.sh list": [*WHERE, "--cluster=c1"],
    "gke.sh delete": ["run1", *WHERE, "--cluster=c1"],
}


@pytest.fixture
def launch(tmp_path):
    """Runs `launch(script, action, *arguments)` among stubs; `.calls` are what they were asked for."""
    (tmp_path / "bin").mkdir()
    stub = STUB.format(python=sys.executable, home=str(tmp_path), flags=json.dumps(FLAGS))
    for name in ("gcloud", "xpk", "docker", "kubectl"):
        (tmp_path / "bin" / name).write_text(stub)
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("sleep", "sudo"):
        (tmp_path / "bin" / name).symlink_to(shutil.which("true"))

    def run(script, *arguments, **env):
        settings = dict(PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", TMPDIR=str(tmp_path), **env)
        command = [LAUNCH / script, *arguments]
        done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=60)
        calls = tmp_path / "calls"
        done.calls = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        return done

    return run


def printed(done):
    """The commands of a dry run that go to a cloud."""
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    return [words for words in lines if words[0] in ("gcloud", "xpk", "docker", "kubectl")]


def partition(arguments):
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:cut], arguments[cut : cut + 1], arguments[cut + 1 :]


def without_folders(calls):
    return [[re.sub(r"/\S*/tmp\.\w+", "TMP", word) for word in call] for call in calls]


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_prints_what_is_run(case, launch, tmp_path):
    script, action = case.split(",")[0].split()
    if action == "keep":
        (tmp_path / "mine/jobs/run1").mkdir(parents=True)
        (tmp_path / "mine/jobs/run1/result").write_text("running")
    flags, dashes, command = partition(CASES[case])
    dry = launch(script, action, *flags, "--dry_run", *dashes, *command)
    assert dry.returncode == 0 and not dry.calls, dry.stderr
    wet = launch(script, action, *CASES[case])
    assert wet.returncode == 0, wet.stderr
    expected = without_folders(printed(dry))
    assert expected and without_folders(wet.calls)[: len(expected)] == expected
    if action == "keep":  # was suspended and recreated; then the run had ended, and it was deleted
        assert ["describe" in call or "cat" in call for call in wet.calls[-3:]] == [True, True, False]
        assert wet.calls[-1] == expected[2] and "ended with code 0" in wet.stdout
    if case == "tpu_vm.sh create":
        words = (tmp_path / "mine/jobs/run1/command").read_bytes().decode().split("\0")
        assert words == ["train", *COMMAND[1:], ""]
    if importlib.util.find_spec("xpk"):
        read_by_xpk([call for call in wet.calls if call[0] == "xpk"])


def read_by_xpk(calls):
    import argparse

    from xpk.parser.core import set_parser

    parser = argparse.ArgumentParser()
    set_parser(parser)
    for call in calls:
        parser.parse_args(call[1:])


def test_the_line_that_a_shell_reads_on_gke_is_the_command(launch):
    done = launch("gke.sh", "create", *GKE, *COMMAND)
    (line,) = [word for word in done.calls[-1] if word.startswith("--command=")]
    script = 'launch/on_host.sh() { printf "%s\\0" "$@"; }; ' + line.removeprefix("--command=")
    words = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert words.split("\0") == ["train", *COMMAND[1:], ""]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("tpu_vm.sh",), "action: ''"),
        (("tpu_vm.sh", "creat"), "action: 'creat'"),
        (("tpu_vm.sh", "create", "Run", *TPU[1:], *COMMAND), "NAME: 'Run'"),
        (("tpu_vm.sh", "create", *TPU), "COMMAND"),
        (("tpu_vm.sh", "create", "run1", *WHERE, "--type=v5p-128", *COMMAND), "--bucket: is missing"),
        (("tpu_vm.sh", "create", *TPU, "--type=v9-8", *COMMAND), "--type: 'v9-8'"),
        (("tpu_vm.sh", "create", *TPU, "--zone=us; rm", *COMMAND), "--zone: 'us; rm'"),
        (("tpu_vm.sh", "list", "--zone"), "--zone: has no value"),
        (("gke.sh", "list", "--clutser=c1"), "--clutser: is not known"),
        (("gke.sh", "list", "c1", "c2"), "argument: 'c2'"),
    ],
)
def test_mistakes_are_one_line(launch, arguments, message):
    done = launch(*arguments)
    assert done.returncode == 2 and not done.calls
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_the_table_of_hosts_is_what_the_script_counts(launch):
    rows = re.findall(r"^\| `(v\w+-\d+)` \| (\d+) \| (\d+) \|$", (LAUNCH / "README.md").read_text(), re.M)
    assert {name.split("-")[0] for name, *_ in rows} == {"v4", "v5litepod", "v5p", "v6e"}
    for name, chips, hosts in rows:
        done = launch(
            "tpu_vm.sh", "create", *TPU[:-2], f"--type={name}", "--bucket=mine", "--dry_run", *COMMAND
        )
        assert f"1 x {name}, {chips} chips on {hosts} hosts" in done.stdout, name


def test_a_host_starts_itself_until_there_is_a_result(launch, tmp_path):
    """The startup script: unpacks, installs, runs the command word by word, and again when it failed."""
    job, code = tmp_path / "mine/jobs/run1", tmp_path / "code"
    (code / "launch").mkdir(parents=True)
    for name in ("env.sh", "on_host.sh", "constraints.txt"):
        shutil.copy(LAUNCH / name, code / "launch" / name)
    shutil.copy(LAUNCH.parent / "setup.py", code)
    both = (code / "setup.py").read_bytes() + (code / "launch/constraints.txt").read_bytes()
    stamp = subprocess.run(["cksum"], input=both, capture_output=True, check=True).stdout.split()[0].decode()
    (code / ".venv/bin").mkdir(parents=True)
    (code / f".venv/installed-tpu-{stamp}").touch()
    python = code / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$1 $LIBTPU_INIT_ARGS"\n[ -e once ] || { touch once; exit 1; }\n')
    python.chmod(0o755)
    job.mkdir(parents=True)
    subprocess.run(["tar", "-cf", job / "code.tar", "-C", code, "."], check=True)
    (job / "command").write_bytes(b"train\0python\0two words\0")
    (job / "result").write_text("running")
    (tmp_path / "bin/curl").write_text("#!/bin/sh\nprintf gs://mine/jobs/run1\n")
    (tmp_path / "bin/curl").chmod(0o755)
    done = launch("tpu_startup.sh", LWM_ROOT=str(tmp_path / "root"))
    log = (tmp_path / "root/var/log/lwm.log").read_text()
    assert done.returncode == 0, done.stderr + log
    assert (job / "result").read_text() == "0"
    said = [line for line in log.splitlines() if line.startswith("two words --xla")]
    assert len(said) == 2 and "ended with code 1" in log and "ended with code 0" in log
    (kept,) = (job / "logs").iterdir()
    assert kept.read_text() == log
    launch("tpu_startup.sh", LWM_ROOT=str(tmp_path / "root"))  # a boot after the end
    assert (tmp_path / "root/var/log/lwm.log").read_text() == log


def test_a_host_without_our_python_installs_one():
    stand_ins = 'find_python() { exit 2; }; sudo() { echo "$@"; }; environment() { echo "environment $1"; }'
    script = f"source launch/env.sh; {stand_ins}; tpu_environment"
    done = subprocess.run(
        ["bash", "-euc", script], cwd=LAUNCH.parent, capture_output=True, text=True, timeout=60
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["apt-get", "apt-get", "environment"]


LOADS = """
import os
from jax.experimental import topologies
topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
"""


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
@pytest.mark.parametrize("extra, code", [("", 0), ("--xla_no_such_flag=1", 1)])
def test_libtpu_knows_its_flags(extra, code):
    """It ends a process that gives it others."""
    script = "source launch/env.sh; for each in none debug multislice; do libtpu_flags $each; done"
    settings = dict(cwd=LAUNCH.parent, capture_output=True, text=True, timeout=120)
    flags = subprocess.run(["bash", "-ec", script], **settings).stdout.split()
    assert len(flags) >= 8 and len(set(flags)) == len(flags)
    env = {
        "LIBTPU_INIT_ARGS": " ".join([*flags, extra]),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", LOADS], env=os.environ | env, **settings)
    assert done.returncode == code, done.stderr
    assert ("xla_no_such_flag" in done.stderr) == bool(code)


def test_the_task_of_skypilot_has_its_fields():
    """Those of its YAML reference; the run names a script and a verb that are there."""
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task.keys() <= {"name", "workdir", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"}
    resources = task["resources"]
    assert resources.keys() <= {"infra", "accelerators", "accelerator_args", "use_spot", "job_recovery"}
    assert resources["job_recovery"].keys() <= {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
    assert set(re.findall(r"\$(\w+)", task["run"])) == task["envs"].keys()
    assert "source launch/env.sh\ntpu_environment" in task["setup"]
    assert task["run"].startswith("launch/on_host.sh train python -m lwm.train ")
