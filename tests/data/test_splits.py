from hypothesis import given
from hypothesis import strategies as st

from lwm.data.splits import MIN_HELDOUT_FRAMES, heldout_names, train_frames

NAMES = [f"texts/{at}.txt" for at in range(50)]


def test_the_share_is_exact_and_never_nothing_or_all():
    assert len(heldout_names(NAMES, 0.1, 0)) == 5
    assert len(heldout_names(NAMES[:2], 0.1, 0)) == 1
    assert not heldout_names(NAMES[:1], 0.5, 0)
    assert not heldout_names(NAMES, 0, 0)


def test_the_choice_depends_on_names_and_seed_alone():
    assert heldout_names(reversed(NAMES), 0.2, 1) == heldout_names(NAMES, 0.2, 1)
    assert heldout_names(NAMES, 0.2, 1) != heldout_names(NAMES, 0.2, 2)


@given(st.integers(1, 10_000), st.floats(0, 0.5))
def test_the_end_of_a_video_is_held_out(frames, fraction):
    kept = train_frames(frames, fraction)
    assert 0 < kept <= frames
    if kept < frames:
        assert MIN_HELDOUT_FRAMES <= frames - kept <= frames / 2
    elif fraction:
        assert frames < 2 * MIN_HELDOUT_FRAMES or fraction > 0.49
