"""FLOPs of a training step of a DreamLLM by formula (lwm/models/dreamllm.py), of each of its parts.

A frozen part costs two FLOPs a multiply-add, four if a gradient goes through it: to the queries through a
frozen language model, to the condition through a frozen U-Net. Losses of weight 0 are not computed: of
comprehension alone there is no condition and no U-Net, of creation alone there is no head of the language
model.
"""

from typing import NamedTuple

from lwm.models.dream_sizes import PARTS, DreamConfig
from lwm.scaling.flops import forward, price, recomputed_flops
from lwm.scaling.unet_flops import text_flops, unet_flops


class DreamFlops(NamedTuple):
    """Of one optimizer step, on all devices together.

    Attributes:
        eyes: the visual encoder, but for its last layer, and the projector.
        language: products of the language model. attention: its causal scores, half of a square.
        condition: hidden states of queries, those for no condition among them, to vectors.
        unet: of what is drawn. captions: what decoder and eyes learn of captions alone.
        again: what rematerialisation computes twice; attention by blocks as in `flops.recomputed_flops`.
    """

    eyes: float
    language: float
    attention: float
    condition: float
    unet: float
    captions: float
    again: float

    @property
    def model(self) -> float:
        """Without what is computed twice."""
        return sum(self) - self.again


def dream_flops(config: DreamConfig, rows: int, length: int, pictures: int) -> DreamFlops:
    """Of rows of `length` tokens with so many pictures each, those that are only filled up among them."""
    learns = {part: part not in config.frozen for part in PARTS}
    # Whether a gradient goes through the language model, and whether it reaches the condition.
    back = any(learns[part] for part in ("vision", "projector", "queries", "language"))
    conditioned = back or learns["condition"]
    found, again = dict.fromkeys(DreamFlops._fields, 0.0), 0.0
    count, tokens, width = rows * pictures, rows * length, config.language.width
    if config.text_weight or config.vision_weight:
        own = forward(config.language, length)
        own = own if config.text_weight else own._replace(heads=0)
        eyes, made = _eyes(config, count, config.vision.encoder_layers - 1)
        joined = count * config.vision.patches * config.vision.encoder_width * width
        found["eyes"] = eyes + price(learns["projector"], learns["vision"]) * joined
        found["language"] = tokens * price(learns["language"], back) * (own.layers + own.heads)
        found["attention"] = tokens * price(back, back) * own.attention
        again += made + back * recomputed_flops(config.language, tokens, own)
    if config.vision_weight:
        joined = rows * (pictures + 1) * config.queries * width * config.decoder.condition_width
        found["condition"] = price(learns["condition"], back) * joined
        drawn = {"trained": learns["decoder"], "conditioned": conditioned}
        found["unet"], made = unet_flops(config.decoder, count, config.queries, **drawn)
        again += made
    if config.decoder_weight or config.contrast_weight:
        found["captions"], made = _captions(config, count)
        again += made
    return DreamFlops(**{name: float(value) for name, value in found.items()} | {"again": float(again)})


def _eyes(config, pictures, layers):
    """(FLOPs, those made once more) of so many layers of the visual encoder."""
    own, learns = config.vision, "vision" not in config.frozen
    W, P = own.encoder_width, own.patches
    G = P + 1  # with the class token
    layer = G * (4 * W * W + 3 * W * own.encoder_ffn) + 2 * G * G * W
    flops = price(learns, False) * P * 3 * own.patch**2 * W + price(learns, learns) * layers * layer
    again = 2 * layers * layer if learns and own.remat != "none" else 0
    return pictures * flops, pictures * again


def _captions(config, pictures):
    """(FLOPs, those made once more) of what is learned of captions alone."""
    learns = {part: part not in config.frozen for part in PARTS}
    drawn = {"trained": learns["decoder"], "conditioned": learns["decoder"]}
    flops, again = text_flops(config.decoder, pictures, trained=learns["decoder"]), 0
    if config.decoder_weight:
        unet, again = unet_flops(config.decoder, pictures, config.decoder.text_length, **drawn)
        flops += unet + text_flops(config.decoder, pictures, trained=learns["decoder"])  # and of no words
    if config.contrast_weight:
        eyes, made = _eyes(config, pictures, config.vision.encoder_layers)
        E, compared = config.contrast_width, learns["contrast"]
        flops += eyes + pictures * E * price(compared, learns["vision"]) * config.vision.encoder_width
        flops += pictures * E * price(compared, learns["decoder"]) * config.decoder.condition_width
        flops += pictures * pictures * E * price(compared or learns["vision"], compared or learns["decoder"])
        again += made
    return flops, again
