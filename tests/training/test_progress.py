import io

from lwm.training.progress import Report

ROW = {"stage": "s8k", "step": 20, "loss": 3.14159, "tokens_per_second": 12345.6, "eta": 3723.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(stream, **settings):
    with Report(stream=stream, **settings) as report:
        report.begin("s8k", 10, 40)
        report.update(ROW | {"step": 19}, 40, "tokens", logged=False)
        report.update(ROW, 40, "tokens", logged=True)
        report.say("s8k · held-out loss 2.0")
    return stream.getvalue()


def test_a_log_gets_one_line_for_each_row():
    assert show(io.StringIO()).splitlines() == [
        "s8k · step 20/40 · loss 3.1416 · 12,346 tokens/s · 1:02:03 left",
        "s8k · held-out loss 2.0",
    ]


def test_a_terminal_gets_a_bar_with_the_same_fields(monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm")
    shown = show(Terminal())
    for part in ("s8k", "20/40", "loss 3.1416", "12,346 tokens/s", "1:02:03 left", "held-out loss 2.0"):
        assert part in shown


def test_other_hosts_are_silent():
    assert show(io.StringIO(), silent=True) == ""


def test_small_rates_keep_their_digits():
    stream = io.StringIO()
    with Report(stream=stream) as report:
        report.update(
            {"stage": "f", "step": 1, "loss": 1.0, "images_per_second": 3.14159, "eta": 61.0},
            2,
            "images",
            logged=True,
        )
    assert "3.14 images/s · 1:01 left" in stream.getvalue()
