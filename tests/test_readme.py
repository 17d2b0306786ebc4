"""The README's example runs as printed, and what the README and the scripts name is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_as_printed():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert code.count("\n") <= 20
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loss, text, vision = map(float, done.stdout.split())
    # Untrained: about ln(259) for text and ln(66) for codes, half of each in the loss.
    assert text == pytest.approx(5.56, abs=0.3) and vision == pytest.approx(4.19, abs=0.3)
    assert 0 < loss < text + vision


@pytest.mark.parametrize("page", sorted(ROOT.glob("*/README.md")) + [ROOT / "README.md"], ids=str)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert all((page.parent / link).exists() for link in links), links


@pytest.mark.parametrize("page", sorted(ROOT.glob("*/README.md")) + [ROOT / "README.md"], ids=str)
def test_verbs_configs_and_scripts_that_are_named_exist(page):
    text = page.read_text()
    for verb in re.findall(r"python -m lwm\.(\w+)", text):
        assert (ROOT / "lwm" / f"{verb}.py").exists(), verb
    for path in re.findall(r"(?:experiments|launch|tests|lwm)/[\w/]+\.(?:py|sh|txt)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")) + [ROOT / ".ci" / "run"], ids=str)
def test_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n", script], timeout=10).returncode == 0


def test_quickstart_names_flags_that_the_verbs_have():
    text = (ROOT / "launch" / "quickstart.sh").read_text().replace("\\\n", " ")
    commands = re.findall(r"-m (lwm\.\w+) ([^\n]*)", text)
    assert len(commands) >= 8
    for verb in {verb for verb, _ in commands}:
        command = [sys.executable, "-m", verb, "--helpfull"]
        known = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
        used = " ".join(rest for name, rest in commands if name == verb)
        for flag in set(re.findall(r"--(\w+)=", used)):
            assert re.search(rf"--(\[no\])?{flag}:", known), f"{verb} --{flag}"
