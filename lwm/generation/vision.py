"""Frames and clips from a prompt: codes by the transformer, pictures by the VQGAN, a PNG or a GIF on disk.

The layout is LWM's (2402.08268, section 4.1): P codes a frame, then `<eof>` = number of codes, after the last
frame `<eov>` = number of codes + 1. Both are forced where they belong, so only codes are sampled.
"""

import io
import os
from collections.abc import Sequence
from pathlib import PurePath

import jax.numpy as jnp
import numpy as np
from PIL import Image

from lwm.errors import UserError
from lwm.generation.cache import Prompt, prefill
from lwm.generation.loop import decode_loop, row_keys
from lwm.generation.sampler import Sampling

SUFFIXES = {"image": ".png", "video": ".gif"}


def generate_codes(
    model,
    params,
    conditional: Sequence[int],
    unconditional: Sequence[int],
    *,
    frames: int,
    codes: int,
    codes_per_frame: int,
    sampling: Sampling,
    seed: int,
    chunk: int = 512,
) -> np.ndarray:
    """Codes of `frames` frames, int32 [F, P], each below `codes`.

    conditional: text ids up to and with `<vision>`. unconditional: the prompt of guidance's other branch, bos
    and `<vision>`, as training renders an example whose caption was dropped; read only if guidance is not 1.
    Both branches run in one batch and receive the same sampled codes.
    """
    prompts = [conditional] if sampling.guidance == 1 else [conditional, unconditional]
    forced_T = frame_ends(frames, codes=codes, codes_per_frame=codes_per_frame)
    filled = prefill(model, params, [Prompt.of_text(ids) for ids in prompts], room=len(forced_T), chunk=chunk)
    new_BT = decode_loop(
        model,
        params,
        filled,
        jnp.asarray(forced_T),
        row_keys(seed, 1),
        sampling=sampling,
        vision=True,
        allowed=codes,
    )
    return np.asarray(new_BT).reshape(frames, codes_per_frame + 1)[:, :-1]


def frame_ends(frames: int, *, codes: int, codes_per_frame: int) -> np.ndarray:
    """What is forced at F (P + 1) steps, int32: -1 = free, eof after every frame, eov after the last."""
    forced_FP = np.full((frames, codes_per_frame + 1), -1, np.int32)
    forced_FP[:, -1] = codes
    forced_FP[-1, -1] = codes + 1
    return forced_FP.reshape(-1)


def check_output(path: os.PathLike | str, kind: str) -> None:
    """UserError unless `path` has a suffix for the kind ("image", "video")."""
    if PurePath(path).suffix.lower() != SUFFIXES[kind]:
        raise UserError(
            f"output: {str(path)!r} is no file name for --kind={kind}; end it in {SUFFIXES[kind]}"
        )


def picture(images_FHWC: np.ndarray, suffix: str, *, fps: float = 0, scale: int = 1) -> bytes:
    """The file of uint8 frames: a PNG of the first (suffix ".png"), or a GIF that loops over all (".gif").

    fps: frames a second; 0, unknown, shows 10. scale: each pixel becomes a square of scale × scale.
    """
    large = np.asarray(images_FHWC).repeat(scale, axis=1).repeat(scale, axis=2)
    first, *rest = (Image.fromarray(image) for image in large)
    file = io.BytesIO()
    if suffix == ".gif":
        # A GIF counts time in hundredths of a second, and browsers slow down what is faster than 50 a second.
        duration = max(20, round(100 / (fps or 10)) * 10)
        first.save(file, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    else:
        first.save(file, "PNG")
    return file.getvalue()
