"""The model of lwm/models/cross_attention.py on a page: all scores at once, one device, layer after layer.

What tests and training curves are compared with. It reads the same parameters and batches (in natural order)
and shares no code with what it judges but the names of parameters; no packing of weights, no scan, no blocks.
"""

import jax
import jax.numpy as jnp

BITS = 16  # of an id, that count the frames of a clip


class Dense:
    """A model as the training step sees it. `of`: the CrossAttentionLM whose parameters it reads."""

    def __init__(self, of):
        self.config, self.init, self.PARTITION_RULES = of.config, of.init, of.PARTITION_RULES

    def loss(self, params, batch, key):
        """a_text Σ w nll over the targets, divided by the packed examples; no metrics."""
        logits_BTV = self.logits(params, batch)
        all_BTV = jax.nn.log_softmax(logits_BTV, axis=-1)
        nll_BT = -jnp.take_along_axis(all_BTV, batch["targets"][..., None], axis=-1)[..., 0]
        examples = jnp.maximum(jnp.sum(jnp.max(batch["segments"], axis=1)), 1)
        return self.config.text_weight * jnp.sum(batch["weights"] * nll_BT) / examples, {}

    def logits(self, params, batch):
        """float logits_BTV after every position."""
        config, layers = self.config, params["layers"]
        x, y = params["wte"]["embedding"][batch["tokens"]], features(params["vision"], batch, config)
        segments, order = batch["segments"], jnp.arange(x.shape[1])
        before = (segments[:, :, None] == segments[:, None]) & (order[:, None] >= order)
        seen = sees(batch, config)
        for group in range(config.cross_layers):
            x = cross(pick(layers["cross"], group), x, y, seen, config)
            for place in range(config.layers // config.cross_layers):
                p = pick(pick(layers["blocks"], group), place)
                h = norm(p["attention_norm"], x, config)
                q, k, v = (heads(h @ p["attention"][w], config.head_dim) for w in ("wq", "wk", "wv"))
                q, k = (turn(a, batch["positions"], config.rope_theta) for a in (q, k))
                x = x + flat(attend(q, k, v, before)) @ p["attention"]["wo"]
                x = x + feed(p["ffn"], norm(p["ffn_norm"], x, config))
        return norm(params["final_norm"], x, config) @ params["lm_head"]["kernel"]


def cross(p, x, y, seen, config):
    """A gated cross-attention layer (2204.14198, figure 4)."""
    h, merge = norm(p["attention"]["norm"], x, config), p["merge"]
    q = jnp.einsum("BTD,DNH->BTNH", h, p["attention"]["wq"])
    k, v = (jnp.einsum("BSC,CKH->BSKH", y, p["attention"][w]) for w in ("wk", "wv"))
    found = jnp.einsum("BTNH,NHD->BTD", attend(q, k, v, seen), merge["wo"])
    x = x + jnp.tanh(merge["attention_gate"]) * found
    if not config.cross_ffn:
        return x
    return x + jnp.tanh(merge["ffn_gate"]) * feed(merge["ffn"], norm(merge["ffn_norm"], x, config))


def sees(batch, config):
    """bool[B, T, S]: frames of the own clip, up to the own frame with media="earlier"."""
    frames = jnp.repeat(batch["frame_ids"], config.frame_tokens, axis=1)[:, None, :]
    media, segments = batch["media"][:, :, None], batch["segments"][:, :, None]
    seen = (frames > 0) & (segments > 0) & (frames // 2**BITS == media // 2**BITS)
    return seen & (frames % 2**BITS <= media % 2**BITS) if config.media == "earlier" else seen


def features(p, batch, config):
    """y_BSC, frame after frame."""
    if config.encoder_layers:
        y = encode(p["encoder"], batch["frames"], config) @ p["projector"]
    else:
        y = batch["features"]
    if config.resampler_layers:
        y = resample(p["resampler"], y, config)
    y = norm(p["norm"], y, config)
    number = (batch["frame_ids"] % 2**BITS).astype(y.dtype)[:, :, None, None]
    half = -(-config.feature_width // 2)
    angle = number * 10_000.0 ** (-jnp.arange(half) / half)
    y = y + jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)[..., : config.feature_width]
    return y.reshape(y.shape[0], -1, config.feature_width)


def encode(p, frames, config):
    """[B, I, P, encoder_width]."""
    (B, count, R), patch = frames.shape[:3], config.patch
    cut = frames.reshape(B, count, R // patch, patch, R // patch, patch, 3).swapaxes(3, 4)
    cut = cut.reshape(B, count, config.patches, -1).astype(p["patches"].dtype) / 127.5 - 1
    x = cut @ p["patches"]
    nothing = jnp.zeros((B, count, config.class_tokens, x.shape[-1]), x.dtype)
    x = jnp.concatenate([x, nothing], axis=2) + p["positions"]
    for layer in range(config.encoder_layers):
        block = pick(p["blocks"], layer)
        h = norm(block["attention_norm"], x, config)
        x = x + look_inside(block["attention"], h, h, config)
        x = x + feed(block["ffn"], norm(block["ffn_norm"], x, config))
    return norm(p["norm"], x, config)


def resample(p, y, config):
    """[B, I, frame_tokens, C] of however many features of a frame (2204.14198, figure 5)."""
    x = jnp.broadcast_to(p["latents"], (*y.shape[:2], *p["latents"].shape))
    for layer in range(config.resampler_layers):
        block = pick(p["blocks"], layer)
        h = norm(block["attention_norm"], x, config)
        both = jnp.concatenate([norm(block["media_norm"], y, config), h], axis=2)
        x = x + look_inside(block["attention"], h, both, config)
        x = x + feed(block["ffn"], norm(block["ffn_norm"], x, config))
    return x


def look_inside(p, x, y, config):
    """Attention of tokens [B, I, P, D] to tokens of the same frame, all of them."""

    def rows(a):
        return a.reshape(-1, *a.shape[2:])

    size = x.shape[-1] // config.encoder_heads
    q, k, v = (heads(rows(a) @ p[w], size) for a, w in ((x, "wq"), (y, "wk"), (y, "wv")))
    out = flat(attend(q, k, v, jnp.ones((1, q.shape[1], k.shape[1]), bool)))
    return out.reshape(x.shape) @ p["wo"]


def attend(q, k, v, seen):
    """Softmax attention, all scores at once; a row that sees nothing is 0."""
    group = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(a, group, axis=2) for a in (k, v))
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) / q.shape[-1] ** 0.5
    scores = jnp.where(seen[:, None], scores, -1e30)
    weights = jnp.where(seen[:, None], jax.nn.softmax(scores, axis=-1), 0.0)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v)


def turn(x, positions, theta):
    """Rotary positions: pairs of neighbours turn."""
    rates = theta ** (-jnp.arange(0, x.shape[-1], 2) / x.shape[-1])
    angle = (positions[..., None] * rates)[:, :, None]
    even, odd, cos, sin = x[..., ::2], x[..., 1::2], jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def norm(p, x, config):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.norm_eps) * p["scale"]


def feed(p, x):
    return (jax.nn.silu(x @ p["w1"]) * (x @ p["w3"])) @ p["w2"]


def heads(x, size):
    return x.reshape(*x.shape[:2], -1, size)


def flat(x):
    return x.reshape(*x.shape[:2], -1)


def pick(tree, number):
    return jax.tree.map(lambda leaf: leaf[number], tree)
