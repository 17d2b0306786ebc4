"""FLOPs of a VQGAN by formula (lwm/models/vqgan.py): pictures to codes, codes to pictures, and training.

    encoder    convolutions on every level, two blocks in the middle; what it does to pixels first wants no
               gradient, two FLOPs less a multiply-add
    codes      V · C multiply-adds for each of P latents, forward only: which code is nearest has no gradient
    decoder    as the encoder, with a block more on each level
    players    the discriminator looks at each picture and twice at its reconstruction, of which the forward
               pass is the same: once with a gradient of its weights, once with one of the picture

Reviving dead codes, every `refresh_every` steps, is not counted.
"""

from lwm.models.vqgan_sizes import VQGANConfig
from lwm.scaling.flops import convolution, price, residual


def encode_flops(config: VQGANConfig, images: int) -> float:
    """Of so many pictures to codes."""
    return 2.0 * images * (_first(config) + _encoder(config) + _codes(config))


def decode_flops(config: VQGANConfig, images: int) -> float:
    """Of so many pictures from codes."""
    return 2.0 * images * _decoder(config)


def vqgan_training_flops(config: VQGANConfig, images: int) -> float:
    """Of a training step on so many pictures, forward and backward."""
    flops = price(weights=True, inputs=False) * _first(config)
    flops += price(weights=True, inputs=True) * (_encoder(config) + _decoder(config))
    flops += price(weights=False, inputs=False) * _codes(config)
    if config.adversarial_weight:
        first, rest = _discriminator(config)
        real = price(weights=True, inputs=False) * first + price(weights=True, inputs=True) * rest
        made = price(weights=True, inputs=True) * (first + rest)
        # Behind the first layer there are two gradients of what it makes of one picture.
        flops += real + made + 2 * rest
    return float(images * flops)


def _grid(config):
    """The sides of the grid of codes and of that of the first level."""
    return config.resolution // config.factor, config.resolution // config.patch


def _codes(config):
    return config.codes_per_frame * config.codes * config.code_channels


def _first(config):
    """Multiply-adds of the encoder with pixels."""
    _, side = _grid(config)
    straight = config.codes_per_frame * 3 * config.factor**2 * config.code_channels * config.shortcut
    return convolution(side, 3 * config.patch**2, config.channels) + straight


def _encoder(config):
    (_, side), width, last, found = _grid(config), config.channels, len(config.multipliers) - 1, 0
    for level, multiplier in enumerate(config.multipliers):
        after = config.channels * multiplier
        for _ in range(config.blocks):
            found, width = found + residual(side, width, after), after
        if level < last:
            found, width = found + convolution(side, width, after, stride=2), after
            side //= 2
    found += residual(side, width, after) + residual(side, after, after)
    found += convolution(side, after, config.latent_channels)
    return found + side * side * config.latent_channels * config.code_channels


def _decoder(config):
    (side, _), C = _grid(config), config.code_channels
    width = config.channels * config.multipliers[-1]
    found = side * side * (C * config.latent_channels + C * 3 * config.factor**2 * config.shortcut)
    found += convolution(side, config.latent_channels, width) + 2 * residual(side, width, width)
    for level in reversed(range(len(config.multipliers))):
        after = config.channels * config.multipliers[level]
        found += residual(side, width, after) + config.blocks * residual(side, after, after)
        width = after
        if level:
            side *= 2
            found += convolution(side, width, width)
    return found + convolution(side, width, 3 * config.patch**2)


def _discriminator(config):
    """Multiply-adds of its first convolution and of the others."""
    side, before, width, found = config.resolution, 3, config.discriminator_channels, []
    for index in range(config.discriminator_layers + 1):
        stride = 2 if index < config.discriminator_layers else 1
        found.append(convolution(side, before, width, kernel=4, stride=stride))
        side, before, width = -(-side // stride), width, min(2 * width, 8 * config.discriminator_channels)
    return found[0], sum(found[1:]) + convolution(side, before, 1, kernel=4)
