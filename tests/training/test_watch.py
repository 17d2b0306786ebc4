import json
import threading

from lwm.training.heartbeats import Beat, laggards, read_beats
from lwm.training.stopwatch import Stopwatch
from lwm.training.watch import Watch
from lwm.training.workdir import write_json


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def watch(folder, clock, index=0, hosts=1, minutes=30.0):
    codes = []
    clocks = dict(clock=clock, wall=clock, exit=codes.append)
    return Watch(folder, index=index, hosts=hosts, minutes=minutes, **clocks), codes


def test_a_host_that_makes_progress_is_left_alone(tmp_path):
    clock = Clock()
    own, codes = watch(tmp_path, clock)
    for step in range(1, 5):
        own.enter("a", 0, step, "in_steps")
        clock.now += 1799
        own.look()
    assert not codes
    own.beat()
    (beat,) = read_beats(tmp_path)
    assert (beat.stage, beat.step, beat.doing, beat.time - beat.since) == ("a", 4, "in_steps", 1799)


def test_a_host_that_hangs_ends_with_a_line_that_names_those_behind(tmp_path, capfd):
    clock = Clock()
    hosts = [watch(tmp_path, clock, index, 4) for index in range(3)]
    for index, (own, _) in enumerate(hosts):
        own.enter("b", 1, 8 - (index == 2), "waiting" if index == 2 else "in_steps")
    clock.now += 1801
    for own, _ in hosts:
        own.beat()
        own.look()
    for own, _ in hosts[::-1]:
        own.look()
    text = (tmp_path / "hosts/0.txt").read_text()
    line, *stacks = text.splitlines()
    name = read_beats(tmp_path)[0].host
    assert line.startswith(f"error: host 0 of 4 ({name}): no progress for 30 minutes at step 8 of stage b, ")
    assert f"behind: host 2 ({name}) at step 7 of b, waiting, host 3 (never heard of); ends with" in line
    assert any("test_watch.py" in own for own in stacks) and text in capfd.readouterr().err
    assert all(codes == [142, 142] for _, codes in hosts)


def test_compiling_takes_what_it_takes_and_so_does_a_run_without_the_guard(tmp_path):
    clock = Clock()
    compiling, unguarded = watch(tmp_path, clock), watch(tmp_path, clock, minutes=0.0)
    compiling[0].enter("a", 0, 0, "compiling")
    unguarded[0].enter("a", 0, 5, "in_steps")
    clock.now += 1e6
    for own, codes in (compiling, unguarded):
        own.look()
        assert not codes


def test_threads_beat_and_stop_with_the_run(tmp_path):
    own, _ = watch(tmp_path, Clock())
    with own:
        own.enter("a", 0, 3, "saving")
    assert not {thread.name for thread in threading.enumerate()} & {"beat", "look"}
    assert json.loads((tmp_path / "hosts/0.json").read_text())["doing"] == "ended"


def test_a_silent_host_is_behind_even_where_the_others_are(tmp_path):
    beats = [Beat(index, f"h{index}", "a", 0, 9, "in_steps", 0.0, 100.0 - 90 * index) for index in (0, 1)]
    for beat in beats:
        write_json(tmp_path / "hosts" / f"{beat.index}.json", beat._asdict())
    (tmp_path / "hosts/2.json").write_text("{}")
    assert read_beats(tmp_path) == beats
    assert laggards(beats, 2, now=100.0) == ["host 1 (h1) at step 9 of a, in_steps, silent for 90 s"]
    assert laggards(beats[:1], 1, now=100.0) == []


def test_a_stopwatch_splits_time():
    clock = Clock()
    own = Stopwatch(clock)
    for phase, seconds in (("waiting", 2), ("in_steps", 5), ("waiting", 1)):
        own.enter(phase)
        clock.now += seconds
    assert (own.spent("waiting"), own.spent("in_steps"), own.spent("waiting", "in_steps")) == (3, 5, 8)
    own.restart()
    clock.now += 4
    assert (own.spent("waiting"), own.spent("in_steps")) == (4, 0)
