import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.depthwise import depthwise

RNG = np.random.default_rng(0)


def dense(window_BSD, taps_KD, dilation):
    D = window_BSD.shape[-1]
    return jax.lax.conv_general_dilated(
        window_BSD,
        taps_KD[:, None],
        window_strides=(1,),
        padding="VALID",
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=D,
        precision="highest",
    )


@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (3, 1), (5, 4)])
def test_values_and_gradients_are_those_of_a_grouped_convolution(taps, dilation):
    window, kernel = (
        RNG.normal(size=(2, 20, 3)).astype(np.float32),
        RNG.normal(size=(taps, 3)).astype(np.float32),
    )

    def value(fn):
        return jax.value_and_grad(lambda w, t: jnp.sum(jnp.sin(fn(w, t, dilation))), argnums=(0, 1))

    ours, theirs = value(depthwise)(window, kernel), value(dense)(window, kernel)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_sums_are_made_in_float32():
    window = jnp.full((1, 300, 1), 1.0, jnp.bfloat16)
    assert depthwise(window, jnp.full((257, 1), 1.0), 1).dtype == jnp.bfloat16
    # 257 is no bfloat16; added up in bfloat16 the sum would stay at 256.
    assert float(depthwise(window, jnp.full((259, 1), 1.0), 1)[0, 0, 0]) == 260
