import numpy as np
import pytest

from lwm.evaluation.windows import Scored, pack, stride


def sequence(length, first=10, counted_from=1):
    tokens = np.arange(first, first + length, dtype=np.int32)
    return Scored(tokens, tokens % 2 == 0, np.arange(length) >= counted_from)


def test_short_sequences_share_a_row_as_segments():
    (batch,) = pack([sequence(4), sequence(3, 50, counted_from=2), sequence(5, 70)], length=6, batch_size=3)
    assert batch["tokens"].tolist() == [[10, 11, 12, 50, 51, 0], [70, 71, 72, 73, 0, 0], [0] * 6]
    assert batch["targets"].tolist() == [[11, 12, 13, 51, 52, 0], [71, 72, 73, 74, 0, 0], [0] * 6]
    assert batch["segments"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0], [0] * 6]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0], [0] * 6]
    assert batch["weights"].tolist() == [[1, 1, 1, 0, 1, 0], [1, 1, 1, 1, 0, 0], [0] * 6]
    vision, target_vision = batch["is_vision"], batch["targets_are_vision"]
    assert vision[0].tolist() == [True, False, True, True, False, False]
    assert target_vision[0].tolist() == [False, True, False, False, True, False]


def test_every_target_comes_once_and_in_order():
    sequences = [sequence(length, 100 * at + 1) for at, length in enumerate([3, 9, 2, 2, 7, 5, 9])]
    batches = list(pack(sequences, length=8, batch_size=2))
    assert {batch["tokens"].shape for batch in batches} == {(2, 8)}
    targets = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in batches])
    assert targets.tolist() == [token for s in sequences for token in s.tokens[1:]]


def test_nothing_gives_no_batch():
    assert list(pack([], length=8, batch_size=2)) == []


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="10 tokens"):
        list(pack([sequence(10)], length=8, batch_size=1))


def test_a_stride_is_even_and_near_the_number_asked_for():
    sequences = [sequence(10, 100 * at) for at in range(40)]
    chosen = [int(s.tokens[0]) // 100 for s in stride(sequences, 100)]
    assert len(chosen) == 10 and set(np.diff(chosen)) == {4}
    assert stride(sequences, 0) == stride(sequences, 10**9) == sequences
