"""How arrays travel round the ring: to which device, and what of them goes which way."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lwm.ops.axes import SEQUENCE, index, pieces
from lwm.ops.meetings import Number, Run, Shards


class Stream(NamedTuple):
    """Keys on their way: +1 or -1, and which half of every run (None: all of it)."""

    direction: int
    part: int | None


@dataclasses.dataclass(frozen=True)
class Travel:
    """Sends along rings of every `stride`-th device of the "seq" axis.

    Attributes:
      shards: how the sequence lies over a ring.
      stride: neighbours on a ring are this far apart on the axis.
      both_ways: half of every run goes the other way round. A window, which needs keys of the devices
        before its own only, goes one way.
      wire: dtype of gradients while they travel; None leaves them as they are.
    """

    shards: Shards
    stride: int = 1
    both_ways: bool = False
    wire: jnp.dtype | None = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        if self.both_ways and self.shards.hops == self.shards.n - 1 and self.shards.first_half:
            return Stream(1, 0), Stream(-1, 1)
        return (Stream(1, None),)

    def me(self) -> Number:
        """Number of this device on its ring."""
        return index(SEQUENCE) // self.stride

    def sender(self, me: Number, stream: Stream, distance: Number) -> Number:
        """Whose keys a device of the ring has after so many hops."""
        return (me - stream.direction * distance) % self.shards.n

    def send(self, tree, stream: Stream, steps: int = 1):
        """To the device `steps` further along the stream; what arrives comes from as far behind."""
        n, size, shift = self.shards.n, pieces(SEQUENCE), stream.direction * steps % self.shards.n
        return lax.ppermute(
            tree, SEQUENCE[0], [(i, (i + shift * self.stride) % (n * self.stride)) for i in range(size)]
        )

    def send_gradients(self, tree, stream: Stream, steps: int = 1):
        """`send` in the dtype of the wire; float32 before and after."""
        if self.wire is None:
            return self.send(tree, stream, steps)
        narrow = jax.tree.map(lambda x: x.astype(self.wire), tree)
        return jax.tree.map(lambda x: x.astype(jnp.float32), self.send(narrow, stream, steps))

    def load(self, tree, stream: Stream):
        """The positions of a shard that go with a stream."""
        if stream.part is None:
            return tree
        return jax.tree.map(lambda x: self.shards.halves(x, axis=1)[stream.part], tree)

    def unload(self, trees: list):
        """Undoes `load`: shards from what came with each stream."""
        if len(trees) == 1:
            return trees[0]
        return jax.tree.map(self._whole, *trees)

    def _whole(self, first, second):
        (B, _, *rest), count = first.shape, len(self.shards.runs(0))
        halves = [x.reshape(B, count, x.shape[1] // count, *rest) for x in (first, second)]
        return jnp.concatenate(halves, axis=2).reshape(B, -1, *rest)


def take(tree, run: Run):
    """The positions of a run, along axis 1 of every array."""

    def one(x):
        if isinstance(run.offset, int):
            whole = run.length == x.shape[1]
            return x if whole else lax.slice_in_dim(x, run.offset, run.offset + run.length, axis=1)
        return lax.dynamic_slice_in_dim(x, run.offset, run.length, axis=1)

    return jax.tree.map(one, tree)


def put(tree, new, run: Run):
    """The tree with the positions of a run replaced."""

    def one(x, y):
        return y if y.shape == x.shape else lax.dynamic_update_slice_in_dim(x, y, run.offset, axis=1)

    return jax.tree.map(one, tree, new)


def add(tree, more, run: Run):
    """The tree with something added to the positions of a run."""
    return put(tree, jax.tree.map(jnp.add, take(tree, run), more), run)
