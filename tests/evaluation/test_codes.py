import math

import numpy as np
import pytest

from lwm.evaluation.codes import Clip, count, cross_entropy, cut, evaluate
from lwm.evaluation.scorer import Scorer

CODES, P = 4, 3


def clip(frames, seed=0):
    codes_FP = np.random.default_rng(seed).integers(0, CODES, (frames, P))
    tokens = np.pad(codes_FP, ((0, 0), (0, 1)), constant_values=CODES).reshape(-1)
    tokens[-1] = CODES + 1
    return Clip(np.array([1, 60, 61]), tokens)


def test_windows_hold_whole_frames_behind_the_prefix():
    whole = clip(5)
    windows = list(cut(whole, codes=CODES, frame=P + 1, length=10))
    assert [len(w.tokens) for w in windows] == [11, 11, 7]
    frames = []
    for window in windows:
        assert window.tokens[:3].tolist() == [1, 60, 61] and not window.is_vision[:3].any()
        assert window.is_vision[3:].all()
        ends = window.tokens[3:].reshape(-1, 4)[:, 3]
        assert window.counted.tolist() == [False] * 3 + [True, True, True, False] * len(ends)
        assert ends.tolist() == [CODES] * (len(ends) - 1) + [CODES + 1]
        frames.append(window.tokens[3:].reshape(-1, 4)[:, :3])
    np.testing.assert_array_equal(np.concatenate(frames), whole.tokens.reshape(-1, 4)[:, :3])


def test_a_context_too_short_for_a_frame_is_refused():
    with pytest.raises(ValueError, match="one frame"):
        list(cut(clip(2), codes=CODES, frame=P + 1, length=5))


def test_unigram_baselines_by_hand():
    counts_V = count(np.array([0, 0, 0, 1, CODES, CODES + 1]), CODES)
    assert counts_V.tolist() == [3, 1, 0, 0]
    assert cross_entropy(counts_V, counts_V) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    # Training saw 0, 1, 2, 3 that often: 1, 5, 0, 2; plus one each: 2, 6, 1, 3 of 12.
    crossed = cross_entropy(counts_V, np.array([1, 5, 0, 2]) + 1)
    assert crossed == pytest.approx(0.75 * math.log(12 / 2) + 0.25 * math.log(12 / 6))


def test_only_codes_count_and_a_uniform_model_scores_log_of_their_number(bigram):
    clips = [clip(5), clip(2, seed=1)]
    values = dict(
        evaluate(
            Scorer(*bigram).nll,
            clips,
            np.zeros(CODES),
            codes=CODES,
            codes_per_frame=P,
            context_length=10,
            batch_size=2,
        )
    )
    codes = np.concatenate([one.tokens for one in clips])
    counts_V = count(codes, CODES)
    assert values["vision_tokens"] == 7 * P == counts_V.sum()
    assert values["vision_nats_per_token"] == pytest.approx(math.log(CODES), rel=1e-6)
    assert values["unigram_entropy"] == pytest.approx(cross_entropy(counts_V, counts_V))
    assert values["unigram_cross_entropy"] == pytest.approx(math.log(CODES))
    assert values["unigram_entropy"] < values["unigram_cross_entropy"]
