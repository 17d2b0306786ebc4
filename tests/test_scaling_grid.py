"""The grid of experiments/scaling.py: real runs of a tiny model, interruptions, and codes."""

import csv
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import scaling, scaling_data, scaling_run, sweeps
from lwm.errors import UserError
from lwm.scaling import sweep
from lwm.scaling.compression import Compression
from lwm.scaling.sweep import Cell, Part

GRID = sweep.grid(scaling_data.VOCABULARIES)
ROWS = scaling_run.ROWS * scaling_run.STEPS * scaling_run.CONTEXT  # tokens of one call


def stream(ids, seed=0):
    """Ids that walk up by one, with a jump now and then: easy to learn."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(20_000) < 0.05, rng.integers(ids, size=20_000), 1)
    return (np.cumsum(steps) % ids).astype(np.int32)


@pytest.mark.slow
def test_a_run_of_two_modalities_learns_both_and_is_that_of_its_seed():
    cell = Cell(2000, (Part("text", "bpe512", ROWS), Part("audio", "mulaw64", ROWS)))
    config = sweep.model_of(cell, scaling_data.VOCABULARIES)
    streams = {name: scaling_run.Streams(stream(64), stream(64, 1), 40_000) for name in ("text", "audio")}
    found, again = (scaling_run.run(cell, config, streams, {"text": 0, "audio": 512}) for _ in range(2))
    assert found == again
    assert found["steps"] == 64 and found["text_epochs"] == pytest.approx(128 / 156)
    # At first log(576) = 6.36; to know the modality alone would be log(64) = 4.16.
    assert max(found["text_nats"], found["audio_nats"]) < 4.5
    bits = found["text_nats"] / np.log(2) * 20_000 / 40_000
    assert found["text_bits_per_byte"] == pytest.approx(bits)


def test_a_run_with_a_step_that_is_not_finite_makes_no_row(monkeypatch):
    cell = Cell(2000, (Part("text", "bpe512", 2 * ROWS),))
    streams = {"text": scaling_run.Streams(stream(64), stream(64, 1), 40_000)}
    calls = [np.ones(scaling_run.STEPS), np.where(np.arange(scaling_run.STEPS) == 4, np.nan, 1.0)]
    begin, nll = (lambda seed: SimpleNamespace(params=None)), lambda params, rows: np.ones((len(rows), 128))

    def found():
        losses = iter(calls)
        program = scaling_run.Program(begin, lambda state, rows, steps: (state, next(losses)), nll)
        monkeypatch.setattr(scaling_run, "program", lambda config: program)
        return scaling_run.run(cell, None, streams, {"text": 0})

    with pytest.raises(UserError, match=f"{cell.name}: .* in 1 of 64 steps, first in step 37; no row"):
        found()
    calls[1] = calls[0]
    assert found()["train_nats"] == 1.0


def test_rows_of_a_stream_follow_each_other():
    rows = scaling_run.windows_of(np.arange(3 * 128))
    assert rows.shape == (2, 129) and rows[0, -1] == rows[1, 0] == 128


def test_a_sweep_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    made = []

    def make_row(cell, data):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(cell)
        return scaling.key_of(cell) | {"train_nats": 1.0}

    monkeypatch.setattr(scaling, "make_row", make_row)
    path = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        scaling.sweep_rows(GRID[:4], sweeps.Table(path, scaling.COLUMNS, scaling.KEY), None)
    with path.open() as file:
        assert len(list(csv.DictReader(file))) == 2
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        scaling.sweep_rows(GRID[:5], sweeps.Table(path, scaling.COLUMNS, scaling.KEY), None)
    assert made == GRID[2:4]


@pytest.mark.parametrize(
    "words, says",
    [
        (["--only=nonsense"], "error: --only: 'nonsense' is no row of this grid; --list shows all"),
        (["--budget=0"], "error: budget: 0.0; give a number above 0"),
    ],
)
def test_bad_questions_are_one_line(words, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling", *words])
    with pytest.raises(SystemExit) as ended:
        scaling.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(says)


def test_no_room_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "ROOM", 2**60)
    monkeypatch.setattr(sweeps, "start_devices", lambda count: None)
    chosen = type("Chosen", (), {"workdir": tmp_path, "output": tmp_path / "rows.csv"})
    with pytest.raises(UserError, match="--workdir: .* MiB free; make room for"):
        scaling.make(GRID[:1], chosen, most=2**16)


def test_codes_give_back_what_they_can():
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for side in (1, 2, 4):
        blocks = scaling_data.patches(tile, side)
        assert blocks.shape == ((32 // side) ** 2, 3 * side * side)
        assert (scaling_data.tile_of(blocks, side) == tile).all()
    assert (scaling_data.patches(tile, 2)[1].reshape(2, 2, 3) == tile[:2, 2:4]).all()
    sound = np.array([0, 5, -40, 900, -20_000, 32_767], np.int16)
    assert (abs(scaling_data.expand(scaling_data.compand(sound)) - sound.astype(int)) <= 1).all()
    mulaw = scaling_data.make_tokenizer("audio", "mulaw256", [])
    again = mulaw.decode(mulaw.encode(sound))
    # A level is 1/127.5 of the companded range, so errors are about 2.2 % of a loud sample at most.
    assert (abs(again - sound.astype(int)) <= 0.03 * abs(sound.astype(int)) + 4).all()


def test_learned_codes_find_the_few_patches_there_are():
    rng = np.random.default_rng(0)
    few = rng.integers(0, 256, (64, 12)).astype(np.float32)
    tiles = [scaling_data.tile_of(few[rng.integers(64, size=256)], 2) for _ in range(20)]
    corpus = scaling_data.Corpus(tiles[:16], tiles[16:])
    train, heldout, about = scaling_data.encode(corpus, "image", "patch2_64", most=600)
    assert len(train) == 3 * 256 and len(heldout) == 4 * 256
    assert isinstance(about, Compression) and about.bytes_per_token == 12 and about.psnr > 20
    row = scaling.described(about)
    assert row["ids"] == 64 and row["png"] > 0 and row["flac"] == ""
