"""The checkpoints that LWM (2402.08268) released for JAX, `params::FILE` in its scripts, with vision or not.

The file names its tensors but says neither theta, nor the context, nor the number of heads; those of the
released 7B models are

    LWM-Text, LWM-Chat      32K    128K   256K   512K     1M
    context_length          2^15   2^17   2^18   2^19     2^20
    rope_theta              1e6    1e7    1e7    2.5e7    5e7

and 32 heads of 128. Layers are stacked (`scan_layers`, the release's way) or numbered.
"""

from typing import Any

from etils import epath
from jax.sharding import Mesh

from lwm.errors import UserError
from lwm.interop import streamed
from lwm.interop.assembly import match, read_params
from lwm.interop.imported import Imported
from lwm.interop.names import LWM_RELEASE
from lwm.interop.stored import FileTensor
from lwm.models.sizes import TransformerConfig

_STACKED = "transformer/h/scan_decoder/"
_LAYERS = 1024  # more than any model has
_HEAD = 128  # of all sizes of Llama from 7B on


def read(
    source: epath.PathLike,
    *,
    context_length: int = 0,
    rope_theta: float = 0.0,
    heads: int = 0,
    mesh: Mesh | None = None,
    dtype: Any = None,
) -> Imported:
    """Reads a whole file; of one that holds a whole training state the parameters.

    Args:
      context_length, rope_theta: of the model, must be given.
      heads: 0 = as many heads of 128 as the width holds.
      mesh: to spread the parameters on, None = one device.
      dtype: to keep them in, None = that of the file.

    Raises:
      UserError: something must be given; the file is damaged, or is no LWM; what is wrong is named.
    """
    for name, value in (("context_length", context_length), ("rope_theta", rope_theta)):
        if not value:
            raise UserError(
                f"{name}: {source} does not say it; give it, for LWM's models of 1M tokens for example "
                "--context_length=1048576 --rope_theta=5e7"
            )
    found = _layers(_params(streamed.index(epath.Path(source))))
    config = _config(found, str(source), heads, rope_theta)
    parts = match(LWM_RELEASE, found, config, str(source))
    return Imported("lwm", config, read_params(parts, config, mesh, dtype), context_length, {})


def _params(found: dict[str, FileTensor]) -> dict[str, FileTensor]:
    """Of a training state (params/params/…, opt_state/…) the parameters; of parameters all."""
    for prefix in ("params/params/", "params/"):
        own = {name.removeprefix(prefix): x for name, x in found.items() if name.startswith(prefix)}
        if own:
            return own
    return found


def _layers(found: dict[str, FileTensor]) -> dict[str, FileTensor]:
    """Stacked layers by their numbers, as if each were a tensor of its own."""
    split = {}
    for name, tensor in found.items():
        if name.startswith(_STACKED) and tensor.shape and tensor.nbytes and tensor.shape[0] <= _LAYERS:
            rest = name.removeprefix(_STACKED)
            split |= {f"transformer/h/{i}/{rest}": tensor[i] for i in range(tensor.shape[0])}
        else:
            split[name] = tensor
    return split


def _config(found: dict[str, FileTensor], source: str, heads: int, theta: float) -> TransformerConfig:
    def shape(name: str) -> tuple[int, int]:
        if name not in found:
            raise UserError(f"source: {source} has no tensor {name}; it is incomplete or no LWM")
        if len(found[name].shape) != 2:
            raise UserError(
                f"source: {source} has {name} of shape {found[name].shape}, no matrix; it is no LWM"
            )
        return found[name].shape

    vocab_size, width = shape("transformer/wte/embedding")
    numbers = {name.split("/")[2] for name in found if name.startswith("transformer/h/")}
    if not heads and width % _HEAD:
        raise UserError(f"heads: {source} has width {width}, no multiple of {_HEAD}; give their number")
    heads = heads or width // _HEAD
    columns = shape("transformer/h/0/attention/wq/kernel")[-1]
    keys = shape("transformer/h/0/attention/wk/kernel")[-1]
    if not heads or not columns or columns % heads or keys * heads % columns:
        raise UserError(f"heads: {heads} do not divide the {columns} columns of the queries of {source}")
    head_dim = columns // heads
    return TransformerConfig(
        vocab_size=vocab_size,
        vision_vocab_size=shape("transformer/vte/embedding")[0] if found.keys() >= _VISION else 0,
        width=width,
        ffn=shape("transformer/h/0/feed_forward/w1/kernel")[-1],
        layers=len(numbers),
        heads=heads,
        kv_heads=keys // head_dim,
        head_dim=head_dim,
        rope_theta=float(theta),
        norm_eps=1e-6,
        tied="lm_head/kernel" not in found,
    )


_VISION = {"transformer/vte/embedding", "vision_head/kernel"}
