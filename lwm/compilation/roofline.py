"""A bound on the time of a step, from published rates: this program on these chips is no faster."""

from typing import NamedTuple

from lwm.compilation.chips import Chip
from lwm.compilation.collectives import Collective


class Bound(NamedTuple):
    """Seconds that one device is busy at least.

    compute: executed FLOPs at peak. memory: arguments, results and temporaries go through HBM once each way.
    hidden, exposed: collectives at the rate of the links, by whether compute stands beside them.
    """

    compute: float
    memory: float
    hidden: float
    exposed: float

    @property
    def seconds(self) -> float:
        """What overlaps takes as long as its longest part; what is exposed comes on top."""
        return max(self.compute, self.memory, self.hidden) + self.exposed

    @property
    def by(self) -> str:
        """The part that the bound comes from."""
        covered = {"compute": self.compute, "HBM": self.memory, "hidden ICI": self.hidden}
        parts = covered | {"exposed ICI": self.exposed}
        return max(parts, key=parts.get)


def bound(chip: Chip, cores: int, flops: float, memory: int, found: list[Collective]) -> Bound:
    """Of one device.

    Args:
      cores: devices that share a chip and its rates.
      flops: executed FLOPs of one device.
      memory: bytes of arguments, results and twice the temporaries of one device.
      found: see `collectives`. A permute goes over one link, any other collective over all links of the chip.
    """

    def seconds(own: Collective) -> float:
        links = 1 if own.kind == "collective-permute" else chip.links
        return own.total / (links * chip.link / cores)

    return Bound(
        compute=flops / (chip.flops / cores),
        memory=memory / (chip.hbm / cores),
        hidden=sum(seconds(own) for own in found if own.hidden),
        exposed=sum(seconds(own) for own in found if not own.hidden),
    )
