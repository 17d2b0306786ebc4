"""The VQGAN that LWM released, the tokenizer of aMUSEd (2401.01808): a pickled tree of Flax parameters.

Their modules are numbered in the order in which they are called, ours are named by what they do; the decoder
counts its levels from the coarsest. Shapes and numbers are the same.
"""

import re
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from lwm.errors import UserError
from lwm.interop.assembly import nest
from lwm.interop.imported import Imported
from lwm.interop.pickles import read_arrays
from lwm.models.vqgan import VQGAN, VQGANConfig
from lwm.parallel import sharding

_ENDS = {
    "encoder/conv_in": "encoder/Conv_0",
    "encoder/norm_out": "encoder/GroupNorm_0",
    "encoder/conv_out": "encoder/Conv_1",
    "encoder/to_code": "quant_conv",
    "decoder/from_code": "post_quant_conv",
    "decoder/conv_in": "decoder/Conv_0",
    "decoder/norm_out": "decoder/GroupNorm_0",
    "decoder/conv_out": "decoder/Conv_1",
    "codebook": "quantize",
}
_BLOCK = {
    "norm_1": "GroupNorm_0",
    "conv_1": "Conv_0",
    "norm_2": "GroupNorm_1",
    "conv_2": "Conv_1",
    "shortcut": "Conv_2",
}


def read(
    source: epath.PathLike, *, resolution: int = 256, mesh: Mesh | None = None, dtype: Any = None
) -> Imported:
    """Reads a whole file.

    Args:
      resolution: pixels along each side of the frames it was trained on.
      mesh: to spread the parameters on, None = one device.
      dtype: to keep them in, None = that of the file.

    Raises:
      UserError: the pickle holds more than arrays or other arrays than this VQGAN's; what is wrong is named.
    """
    found = read_arrays(epath.Path(source))
    found = {name.removeprefix("params/"): array for name, array in found.items()}
    config = _config(found, resolution, source)
    shapes = jax.eval_shape(lambda key: VQGAN(config).init(key, {}), jax.random.key(0))
    left, params = set(found), {}
    for path, leaf in jax.tree.leaves_with_path(shapes):
        ours = jax.tree_util.keystr(path, simple=True, separator="/")
        theirs = _theirs(ours, len(config.multipliers))
        array = _get(found, theirs, source)
        if array.shape != leaf.shape:
            raise UserError(f"source: {source} has {theirs} of shape {array.shape}, expected {leaf.shape}")
        left.discard(theirs)
        params[ours] = array
    if left:
        raise UserError(
            f"source: {source} has {len(left)} arrays that its VQGAN has not, such as {min(left)}"
        )
    tree = nest(params)
    layout = sharding.shardings(VQGAN.PARTITION_RULES, shapes, mesh) if mesh is not None else None
    kind = np.dtype(dtype) if dtype else None
    tree = jax.tree.map(lambda x: x.astype(kind or x.dtype, copy=False), tree)
    return Imported("vqgan", config, jax.device_put(tree, layout), 0, {})


def _theirs(ours: str, levels: int) -> str:
    """Their name of one of our parameters."""
    module, leaf = ours.rsplit("/", 1)
    if module in _ENDS:
        return f"{_ENDS[module]}/{'embeddings' if leaf == 'embedding' else leaf}"
    coder, part, *inner = module.split("/")
    numbers = [int(number) for number in re.findall(r"\d+", part)]
    if part.startswith("middle"):
        block = f"MidBlock_0/ResnetBlock_{numbers[0]}"
    else:
        down = coder == "encoder"
        level = f"DownsamplingBlock_{numbers[0]}" if down else f"UpsamplingBlock_{levels - 1 - numbers[0]}"
        resampler = "Downsample_0/Conv_0" if down else "Upsample_0/Conv_0"
        block = f"{level}/" + (f"ResnetBlock_{numbers[1]}" if "block" in part else resampler)
    return "/".join([coder, block, *(_BLOCK[name] for name in inner), leaf])


def _config(found: dict[str, np.ndarray], resolution: int, source: epath.PathLike) -> VQGANConfig:
    """Its size, read off the shapes."""

    def width(name: str) -> int:
        return _get(found, f"{name}/kernel", source, axes=4).shape[-1]

    def count(pattern: str) -> int:
        return len({match.group() for name in found if (match := re.match(pattern, name))})

    codes, code_channels = _get(found, "quantize/embeddings", source, axes=2).shape
    channels, levels = width("encoder/Conv_0"), count(r"encoder/DownsamplingBlock_\d+/")
    widths = [width(f"encoder/DownsamplingBlock_{level}/ResnetBlock_0/Conv_0") for level in range(levels)]
    return VQGANConfig(
        resolution=resolution,
        channels=channels,
        multipliers=tuple(own // channels for own in widths),
        blocks=count(r"encoder/DownsamplingBlock_0/ResnetBlock_\d+/"),
        latent_channels=width("encoder/Conv_1"),
        codes=codes,
        code_channels=code_channels,
    )


def _get(found: dict[str, np.ndarray], name: str, source: epath.PathLike, axes: int = 0) -> np.ndarray:
    """The array of this name; axes: how many it must have, 0 = any number."""
    if name not in found:
        raise UserError(f"source: {source} has no array {name}; it is incomplete or another VQGAN")
    if axes and (found[name].ndim != axes or not found[name].size):
        raise UserError(f"source: {source} has {name} of shape {found[name].shape}; it is another VQGAN")
    return found[name]
