"""Each file of a checkpoint shortened, changed by a bit, or removed: what is loaded is right, or nothing is.

pytest -m slow tests/training/test_damage.py tests/training/test_full_disk.py
"""

import shutil

import jax
import numpy as np
import pytest

from lwm.errors import UserError
from lwm.training.checkpoints import load_params
from lwm.training.recovery import saved_steps

STAGES = {"a": {"steps": 2, "checkpoint_every": 1}}


def shorten(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, run, config_of):
    """A finished run with two checkpoints; programs as small as these are compiled once."""
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    folder = tmp_path_factory.mktemp("whole")
    assert run(config_of(STAGES), folder) is None
    yield folder
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@pytest.fixture(scope="module")
def files(whole):
    """The files of its last checkpoint, by their path in it."""
    checkpoint = whole / "stages/0_a/2"
    found = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    assert 3 * len(found) >= 50
    return found


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [shorten, flip, remove])
def test_training_ends_with_the_same_bits(
    damage, whole, files, tmp_path, run, config_of, saved, rows_of, assert_same
):
    expected, passed_over = saved(whole / "stages/0_a"), 0
    for index, name in enumerate(files):
        workdir = tmp_path / str(index)
        shutil.copytree(whole, workdir)
        folder = workdir / "stages/0_a"
        damage(folder / "2" / name)
        assert run(config_of(STAGES), workdir, resume="must") is None, name
        found, position = saved(folder)
        assert_same(found, expected[0])
        assert position == expected[1] and rows_of(workdir) == rows_of(whole), name
        assert saved_steps(folder) == [1, 2], name
        passed_over += (folder / "2.damaged").exists()
        shutil.rmtree(workdir)
    print(f"{damage.__name__}: {len(files)} cases, {passed_over} passed over for the checkpoint before")
    # Two files beside the seal say nothing that training reads.
    assert passed_over >= len(files) - 2


@pytest.mark.slow
@pytest.mark.parametrize("damage", [shorten, flip, remove])
def test_what_is_loaded_is_right_or_refused(damage, whole, files, tmp_path, run, config_of):
    newest, refused = load_params(whole)[2], 0
    for index, name in enumerate(files):
        workdir = tmp_path / str(index)
        shutil.copytree(whole, workdir)
        folder = workdir / "stages/0_a"
        damage(folder / "2" / name)
        shutil.rmtree(folder / "1")
        try:
            assert same(load_params(workdir)[2], newest), name
        except UserError as error:
            assert "0_a/2 is damaged" in str(error) and "\n" not in str(error)
            refused += 1
        try:
            run(config_of(STAGES), workdir)
            assert same(load_params(workdir)[2], newest), name
        except UserError as error:
            assert "no whole checkpoint is left" in str(error) and "\n" not in str(error)
        shutil.rmtree(workdir)
    print(f"{damage.__name__}: {len(files)} cases, {refused} refused")
    assert refused >= sum(name.parts[0] in ("params", "about", "seal.json") for name in files)
