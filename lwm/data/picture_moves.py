"""Pictures of training moved a little each time they are seen, so that few of them teach more.

What crops and mirrors of large corpora do for CLIP (2103.00020) and Stable Diffusion (2112.10752) is needed
the more where there are hundreds of pictures: eyes and decoder learn pixels by heart otherwise.
"""

from typing import NamedTuple

import numpy as np


class Moves(NamedTuple):
    """shift: pixels, at most, up or down and left or right · mirror: whether every other one is mirrored."""

    shift: int = 0
    mirror: bool = False


STILL = Moves()


def moved(pictures_NRRC: np.ndarray, moves: Moves, rng: np.random.Generator) -> np.ndarray:
    """Each picture by moves of its own; what comes in is as the edge was.

    Args:
        pictures_NRRC: of any dtype; a shift is less than R.
    """
    reach, side = moves.shift, pictures_NRRC.shape[1]
    padded = np.pad(pictures_NRRC, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    found = np.empty_like(pictures_NRRC)
    for picture, wide in zip(found, padded, strict=True):
        top, left = rng.integers(0, 2 * reach + 1, size=2)
        picture[:] = wide[top : top + side, left : left + side]
        if moves.mirror and rng.random() < 0.5:
            picture[:] = picture[:, ::-1].copy()
    return found
