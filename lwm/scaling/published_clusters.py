"""The clusters and models of the LV-XAttn paper (arXiv 2502.02406) in our model of its time.

Model, not measurement: none of this hardware was run here. What the paper reports stands beside it; it does
not say which cell of its sweep the largest figure is from, nor what share of its peak attention reached, so
the number of text tokens and that share (`mfu`) are arguments.
"""

import dataclasses

from lwm.scaling.cross_attention_time import Rates, Shape

# Largest speed-ups that the paper reports over ring attention.
REPORTED_ATTENTION = 45.85  # Llama 3-V on 16 A100, its cross-attention layers
REPORTED_END_TO_END = 10.62  # the same, a whole step (third version of the paper)
REPORTED_END_TO_END_EARLIER = 5.58  # mPLUG-Owl3 and OpenFlamingo (second version)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Devices in a ring whose slowest link counts.

    Attributes:
      flops: peak of a device in 16-bit products, a second (data sheet).
      bandwidth: bytes a second between nodes, in each direction (as the paper gives it).
    """

    devices: int
    flops: float
    bandwidth: float

    def rates(self, mfu: float) -> Rates:
        """Rates with that share of the peak reached, everything overlapped and no latencies."""
        if not 0 < mfu <= 1:
            raise ValueError(f"mfu: {mfu}; a share of the peak, above 0 and at most 1")
        return Rates(self.flops * mfu, self.bandwidth)


CLUSTERS = {
    "16 A100-80": Cluster(16, 312e12, 25e9),
    "8 A30-24": Cluster(8, 165e12, 1.25e9),
    "12 A100-40": Cluster(12, 312e12, 25e9),
}


@dataclasses.dataclass(frozen=True)
class Heads:
    """Heads of a cross-attention, and tokens that a frame of video becomes."""

    N: int
    K: int
    H: int
    frame_tokens: int


# Llama 3.2 Vision 11B: 32 query heads, 8 key heads of 128.
LLAMA_3V = Heads(N=32, K=8, H=128, frame_tokens=6404)
VIDEO_SECONDS = 2386  # average video of Video-MME, at a frame a second


def shape(heads: Heads, cluster: Cluster, *, text: int, frames: int = VIDEO_SECONDS, repeated: bool) -> Shape:
    """One cross-attention of a model on a cluster, in 16 bits.

    Args:
      text: queries, padded over the devices if they do not divide it.
      repeated: keys travel once for each query head, as in the paper's formulas; else as few as there are.
    """
    K = heads.N if repeated else heads.K
    return Shape(text, frames * heads.frame_tokens, heads.N, K, heads.H, cluster.devices, itemsize=2)
