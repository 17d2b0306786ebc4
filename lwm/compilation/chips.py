"""Published rates of TPU chips; the only place where hardware has numbers.

Sources: peak FLOPs, HBM and ICI of v5e, v5p, v6e and TPU7x from the Cloud TPU documentation, pages "TPU v5e"
(197 TFLOPs, 16 GB at 819 GB/s, 400 GB/s of ICI both ways over 4 ports), "TPU v5p" and "TPU7x" (459, 918 and
2307 TFLOPs; 2765, 1638 and 7380 GB/s; 1200, 800 and 1200 GB/s of ICI both ways); of v3 and v4 from its pages
"TPU v3" (123 TFLOPs, 900 GB/s) and "TPU v4" (275 TFLOPs, 1200 GB/s), their links from table 4 of "TPU v4: An
Optically Reconfigurable Supercomputer" (2304.01433): 4 of 70 GB/s and 6 of 50 GB/s. What is said here of v3
and v4 was written from memory and has not been looked up again. The documentation gives ICI per chip and both
ways, a link one way is that over twice the ports. What a program may use of the memory is what the compiler
of libtpu 0.0.42.1 names when it refuses one.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """One chip.

    flops: peak bfloat16 FLOP/s. usable: GiB that a program gets on a device, by devices a chip.
    hbm: bandwidth of its memory, B/s.
    links: ICI links, two for each dimension of the torus. link: bandwidth of one link one way, B/s.
    """

    name: str
    flops: float
    usable: dict[int, float]
    hbm: float
    links: int
    link: float


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v3", 123e12, {2: 15.48}, 900e9, 4, 70e9),
        Chip("v4", 275e12, {1: 30.75, 2: 15.25}, 1200e9, 6, 50e9),
        Chip("v5e", 197e12, {1: 15.75}, 819e9, 4, 50e9),
        Chip("v5p", 459e12, {1: 95.74}, 2765e9, 6, 100e9),
        Chip("v6e", 918e12, {1: 31.25}, 1638e9, 4, 100e9),
        Chip("tpu7x", 2307e12, {2: 94.75}, 7380e9, 6, 100e9),
    )
}
