"""The benchmark over slow links, without root or network: what is asked, what a row says, what is refused."""

import csv
import dataclasses
import functools
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmarks import (
    lv_xattn_fit,
    lv_xattn_hosts,
    lv_xattn_network,
    lv_xattn_plot,
    lv_xattn_questions,
)
from experiments.benchmarks.lv_xattn_methods import Layer
from lwm.compilation.collectives import collectives
from lwm.compilation.hlo import Module
from lwm.scaling.cross_attention_time import Rates, Shape, seconds

SCRIPT = Path(lv_xattn_hosts.SCRIPT)
RATES = dict(flops=40e9, latency=3e-4, visit=1e-4, start=1e-3, overlap=0.0)


class MadeUpHosts:
    """Hosts that take as long as the model says, the second one a little longer."""

    asked = []

    def __init__(self, count, seconds):
        self.count, self.mbit = count, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self):
        pass

    def limit(self, mbit):
        self.mbit = mbit

    def ask(self, prepare=None, programs=None, time=None, rounds=0):
        if prepare:
            self.case = prepare
            self.asked.append((self.count, prepare["S"], [tuple(own) for own in programs]))
            return [1.0] * self.count
        shape = Shape(**{letter: self.case[letter] for letter in "TSNKHn"})
        rates = Rates(bandwidth=(self.mbit or 8000) / 8e-6, **RATES)
        answers = []
        for host in range(self.count):
            taken = []
            for method, direction in time:
                way = {"queries_alone": "rotate_queries"}.get(method, method)
                way = way if way in ("rotate_queries", "gather_keys") else "rotate_keys"
                link = {"latency": 0.0, "bandwidth": math.inf} if method.endswith("_alone") else {}
                own = dataclasses.replace(rates, **link)
                took = seconds(way, shape, own, training=direction == "both")
                taken.append([[took * (1 + (host == 1) / 1e4), 1000 + host]] * rounds)
            answers.append(taken)
        return answers


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Returns `benchmark(*flags)`: runs it on made-up hosts, returns what those were asked and the rows."""

    def run(*flags):
        MadeUpHosts.asked = []
        monkeypatch.setattr(lv_xattn_network, "Hosts", MadeUpHosts)
        monkeypatch.setattr(sys, "argv", ["lv_xattn_network", f"--output={tmp_path / 'a.csv'}", *flags])
        lv_xattn_network.main()
        with (tmp_path / "a.csv").open(newline="") as file:
            return MadeUpHosts.asked, list(csv.DictReader(file))

    return run


def test_rows_are_made_once_with_bytes_quartiles_and_predictions(benchmark, capsys):
    flags = "--hosts=2,4", "--mbit=200,1000", "--key_heads=8,2", "--ratios=1,64", "--note=busy"
    asked, rows = benchmark(*flags)
    # Two counts of hosts, two counts of heads, two ratios; every rate uses the programs that are there.
    assert len(asked) == 8 and len(asked[0][2]) == 11
    assert len(rows) == 8 * 2 * 11
    assert "16 cells to make, about" in capsys.readouterr().out
    row = next(row for row in rows if row["method"] == "rotate_keys" and row["direction"] == "both")
    assert (row["n"], row["mbit"], row["T"], row["S"], row["K"]) == ("2", "200", "128", "128", "8")
    assert (row["sent"], row["sent_each"], row["note"]) == ("1001", "1000 1001", "busy")
    assert int(row["formula"]) == 64 * 8 * 64 * (8 + 16)  # k, v; k, v again with dk and dv; float32
    assert float(row["lower"]) == float(row["seconds"]) == float(row["upper"])
    assert float(row["predicted"]) == pytest.approx(float(row["seconds"]), rel=1e-3)
    assert benchmark(*flags) == ([], rows)
    assert benchmark(*row["command"].split()[3:]) == ([], rows)
    more, rows = benchmark(*flags[:-2], "--ratios=64,256")
    assert [S for _, S, _ in more] == [256 * 128] * 4 and len(rows) == 12 * 2 * 11


def test_cells_say_who_is_faster_and_where_the_crossover_is(benchmark):
    _, rows = benchmark("--hosts=2", "--mbit=200", "--key_heads=8,2", "--ratios=1,4,16,64")
    found = {(cell["K"], cell["S"], cell["direction"]): cell for cell in lv_xattn_fit.cells(rows)}
    assert len(found) == 16
    for (K, S, _), cell in found.items():
        assert cell["balance"] == int(S) / 128 * int(K) / 16
        assert (cell["speed_up"] > 1) == (cell["balance"] > 1)
        assert cell["faster"] == cell["chosen"] == cell["lighter"]
    said = "\n".join(lv_xattn_fit.report(rows, lv_xattn_fit.calibrations(rows)))
    assert "overlap 0" in said and "200 Mbit/s 200 and 300" in said
    assert (
        "shorter prediction picks the faster one in 16 of 16" in said
        and "bytes picks the faster one in 16" in said
    )


def test_picture_is_made_of_what_is_there(benchmark, tmp_path):
    _, rows = benchmark("--hosts=2", "--mbit=200,0", "--ratios=1,4")
    lv_xattn_plot.draw(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 150_000
    lv_xattn_plot.draw([], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("flags", ["--ratios=0", "--hosts=1", "--mbit=-5", "--modes=planes", "--queries=100"])
def test_questions_that_make_no_sense_are_refused(benchmark, flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark(flags)
    assert stopped.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize("method", ["gather_keys", "queries_alone", "keys_alone", "rotate_queries"])
def test_methods_agree(method):
    """Alone, a device sees its own keys again and again: that is another result, of the same shape."""
    asked = {"T": 16, "S": 32, "N": 4, "K": 2, "H": 8}
    layer = Layer(asked, jax.devices()[:2])
    arrays = layer.arrays("both")
    wanted, found = (
        jax.block_until_ready(layer.compile(name, "both")(*arrays)) for name in ("rotate_keys", method)
    )
    if not method.endswith("_alone"):
        for x, y in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    else:
        assert all(np.isfinite(x).all() for x in found)


def test_a_step_that_is_refused_is_named_in_one_line(monkeypatch, tmp_path, capsys):
    script = tmp_path / "refuses.sh"
    script.write_text("#!/bin/sh\necho 'error: make namespace lwm-host0: no' >&2\nexit 2\n")
    script.chmod(0o755)
    monkeypatch.setattr(lv_xattn_hosts, "SCRIPT", script)
    monkeypatch.setattr(sys, "argv", ["lv_xattn_network", "--quick", f"--output={tmp_path / 'a.csv'}"])
    with pytest.raises(SystemExit) as stopped:
        lv_xattn_network.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: make namespace lwm-host0: no\n"


@pytest.mark.parametrize(
    "words, said",
    [
        (["hold", "99", "10"], "COUNT: '99'; from 1 to 8 hosts"),
        (["hold", "2", "1e9"], "SECONDS: '1e9'; from 1 to 21600"),
        (["hold", "2"], "usage: network_hosts.sh hold COUNT SECONDS"),
        (["enter", "7", "true"], "enter lwm-host7: no such host"),
        (["hold", "2", "10"], "become root" if os.geteuid() else "find ip: not here; install iproute2"),
    ],
)
def test_hosts_that_cannot_be_are_refused(words, said, tmp_path):
    for tool in ("bash", "env"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")  # and neither ip nor tc
    done = subprocess.run(
        [SCRIPT, *words],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize(
    "method", ["rotate_queries", "rotate_keys", "gather_keys", "queries_alone", "keys_alone", "hop"]
)
def test_programs_send_what_the_formula_says(method, direction):
    if (method, direction) == ("hop", "both"):
        return
    cell = {"mode": "layer", "n": len(jax.devices()), "T": 32, "S": 64, "N": 4, "K": 2, "H": 8}
    program = Layer(cell).compile(method, direction)
    passes = [program] if direction == "forward" else list(program)
    found = [own for each in passes for own in collectives(Module(each.as_text()))]
    assert all(own.certain for own in found)
    assert sum(own.total for own in found) == lv_xattn_questions.formula(method, cell, direction)


@pytest.mark.slow
@pytest.mark.parametrize(
    "end", ["the end of its input", signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str
)
def test_nothing_is_left_of_hosts(end, request):
    # What a shell runs in the background ignores this signal, and so would a script that it begins.
    request.addfinalizer(functools.partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([SCRIPT, "hold", "2", "60"], stdin=subprocess.PIPE, **pipes) as holder:
        if holder.stdout.readline() != "ok\n":
            pytest.skip(holder.stderr.read().strip())
        print("rate 200", file=holder.stdin, flush=True)
        assert holder.stdout.readline() == "ok\n"
        words = [SCRIPT, "enter", "1", "sh", "-c", "cat /proc/sys/kernel/hostname; exec sleep 60"]
        with subprocess.Popen(words, **pipes) as guest:
            assert guest.stdout.readline() == "lwm-host1\n"
            if isinstance(end, str):
                holder.stdin.close()
            else:
                holder.send_signal(end)
            holder.wait(timeout=20)
            # The guard holds the lock until all is removed, whatever became of the holder.
            subprocess.run(["flock", "-w", "20", "/run/lwm-hosts.lock", "true"], check=True)
            assert guest.wait(timeout=20)
    assert "lwm-" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert not Path("/etc/netns/lwm-host0").exists()
