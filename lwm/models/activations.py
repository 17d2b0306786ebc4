"""Activations between the layers of a transformer: where they lie on the mesh, and what is kept of them."""

import jax
from flax import linen as nn

from lwm.models.sizes import TransformerConfig
from lwm.parallel.mesh import axis_size
from lwm.parallel.sharding import BATCH, constrain


def whole(x_BTD: jax.Array) -> jax.Array:
    """Every device of "tensor" has the whole width: what a product needs."""
    return constrain(x_BTD, BATCH, "seq", None)


def cut(x_BTD: jax.Array) -> jax.Array:
    """The width is cut over "tensor", as what is kept between layers has to be: 64 GiB for 32 layers of 7B
    and 262 144 positions a device, if it were whole on each of them.

    The sum over "tensor" after a product and the copy before the next become a reduce-scatter and an
    all-gather, which send no more than the all-reduce that they replace ("Reducing Activation Recomputation
    in Large Transformer Models", 2205.05198, section 4.2.2, there along positions). A width that "tensor"
    does not divide stays whole.
    """
    divides = x_BTD.shape[-1] % axis_size("tensor") == 0
    return constrain(x_BTD, BATCH, "seq", "tensor" if divides else None)


def everywhere(x_BTD: jax.Array) -> jax.Array:
    """Every device of "seq" and of "tensor" has the same few tokens that are decoded."""
    return constrain(x_BTD, BATCH, None, None)


def entering(x_BTD: jax.Array, *, decoding: bool) -> jax.Array:
    """Embeddings on their way into the layers: as `everywhere` for few tokens being decoded, else as `cut`.

    They are whole first: a look-up whose result is wanted cut over rows, positions and width at once is
    partitioned wrongly by XLA (jaxlib 0.10.2) if there are fewer tokens than rows in the table, silently.
    """
    return everywhere(x_BTD) if decoding else cut(whole(x_BTD))


def leaving(x_BTD: jax.Array, *, decoding: bool) -> jax.Array:
    """What comes out of the layers: as `everywhere` for tokens being decoded.

    Left to itself XLA cuts their width between layers, as the heads want it, and each layer gathers it again.
    """
    return everywhere(x_BTD) if decoding else x_BTD


def rematerialised(block: type[nn.Module], config: TransformerConfig) -> type[nn.Module]:
    """The block, which keeps for its backward pass what `config.remat` names and computes the rest again."""
    if config.remat == "none":
        return block
    # In a loop the compiler cannot merge the recomputation with the forward pass; unrolled it could.
    return nn.remat(block, policy=_policy(config.remat), prevent_cse=not config.scan)


def stacked(block: type[nn.Module], length: int, config: TransformerConfig, *in_axes) -> type[nn.Module]:
    """`length` blocks one after another; their parameters are stacked along a leading axis.

    in_axes: for each argument after the carry, 0 (one entry for each block) or `nn.broadcast`.
    """
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
        unroll=1 if config.scan else length,
    )


def _policy(name: str):
    if name == "attention_saveable":
        return jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse")
    if name == "offload":
        return jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["layer_input"],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return getattr(jax.checkpoint_policies, name)
