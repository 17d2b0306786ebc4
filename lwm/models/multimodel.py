"""MultiModel: one model for tasks between pictures, speech, text and categories (1706.05137).

    pictures, a waveform, text ── modality net ── encoder ─┬─ mixer ── decoder ── text
                                 command, text so far ─────┘
                                                           └─ categorical net ── a label

A batch is {kind: {name: array}}: rows of unlike tasks lie together as far as their shapes are alike.

    "classify"    images uint8 [B, R, R, 3]                                 labels int32 [B]
    "caption"     images uint8 [B, R, R, 3]                                 targets int32 [B, T]
    "speech"      waveform float32 [B, A] in [-1, 1], samples int32 [B]     targets int32 [B, T]
    "translate"   source int32 [B, S]                                       targets int32 [B, T]

and of every kind task int32 [B], the number of its command token, and weights float32 [B], the weight of the
row in the loss, 0 for a row that fills up and is seen by nobody. Texts are filled up with 0 and end in `eos`.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lwm.models.attention_block import Stream
from lwm.models.multimodel_decoding import Decoding, begin, step
from lwm.models.multimodel_loss import total_loss
from lwm.models.multimodel_network import Network
from lwm.models.multimodel_sizes import SIZES, MultiModelConfig, row_shapes

# Pictures are encoded alike for a label and for a caption.
_KIND_OF = {"images": "caption", "waveform": "speech", "source": "translate"}

__all__ = ["SIZES", "Decoding", "MultiModel", "MultiModelConfig"]


class MultiModel:
    """A model of the training loop; and `encode`, `begin`, `step`, `predict_labels` for everybody else."""

    Config = MultiModelConfig
    # Experts lie along "fsdp", over which tokens are cut: they meet by an all-to-all. Stacked blocks have a
    # leading axis of layers.
    PARTITION_RULES = (
        (r"experts/(gate|noise)$", P()),
        (r"experts/w1$", P("fsdp", None, "tensor")),
        (r"experts/w2$", P("fsdp", "tensor", None)),
        (r"words/embedding$", P("tensor", "fsdp")),
        (r"head/kernel$", P("fsdp", "tensor")),
        (r"(encoder|decoder)/(front|back|mixed)/.*pointwise$", P(None, "fsdp", "tensor")),
        (r"decoder/(front|back)/attention/(self_)?w[qkv]$", P(None, "fsdp", "tensor")),
        (r"decoder/(front|back)/attention/(self_)?wo$", P(None, "tensor", "fsdp")),
        (r"decoder/(merge|mixer/conv_\d)/pointwise$", P("fsdp", "tensor")),
        (r"decoder/mixer/(self_)?w[qkv]$", P("fsdp", "tensor")),
        (r"decoder/mixer/(self_)?wo$", P("tensor", "fsdp")),
        (r"(image|audio|categorical|commands|encoder|decoder)/", P()),
    )

    def __init__(self, config: MultiModelConfig):
        self.config = config
        self.network = Network(config)
        if config.without == "experts":
            dense = (r"experts/w1$", P("fsdp", "tensor")), (r"experts/w2$", P("tensor", "fsdp"))
            self.PARTITION_RULES = dense + self.PARTITION_RULES

    def init(self, key: jax.Array, batch: dict) -> dict:
        """Random float32 parameters of the body and of the nets of all kinds of tasks in the config.

        A batch may lack kinds: it is taken because every model takes one, and not read.
        """
        del batch
        return self.network.init(key, example(self.config), 0.0)["params"]

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Loss and metrics of a batch, see `multimodel_loss.total_loss`.

        Args:
            key: of dropout and of the noise at the experts; None = neither, as in `evaluate`.
        """
        if key is None:
            return self.evaluate(params, batch)
        rngs = dict(zip(("dropout", "noise"), jax.random.split(key), strict=True))
        outputs = self.network.apply({"params": params}, batch, self.config.capacity_factor, rngs=rngs)
        return total_loss(self.config, outputs, batch)

    def evaluate(self, params: dict, batch: dict) -> tuple[jax.Array, dict]:
        """As `loss`, without anything random."""
        return total_loss(self.config, self.outputs(params, batch), batch)

    def outputs(self, params: dict, batch: dict):
        """All logits of a batch and the traffic at the experts, see `multimodel_network.Outputs`."""
        return self.network.apply({"params": params}, batch, self.config.evaluation_capacity)

    def label_logits(self, params: dict, rows: dict) -> jax.Array:
        """{"images": uint8 [B, R, R, 3]} to float32 logits [B, classes]."""
        rows, capacity = {"classify": rows}, self.config.evaluation_capacity
        return self.network.apply({"params": params}, rows, capacity, method="classify")

    def predict_labels(self, params: dict, rows: dict) -> jax.Array:
        """{"images": uint8 [B, R, R, 3]} to the likeliest class of each, int32 [B]."""
        return jnp.argmax(self.label_logits(params, rows), axis=-1).astype(jnp.int32)

    def encode(self, params: dict, rows: dict) -> Stream:
        """The encoded input of rows of one kind, {name: array} as in a batch, for `begin`.

        Rows of weight 0 are padding; without `weights` there are none.

        Raises:
            ValueError: there is no input among them.
        """
        kind = next((kind for name, kind in _KIND_OF.items() if name in rows), None)
        if kind is None:
            raise ValueError(f"rows: have {list(rows)}; one of {list(_KIND_OF)} is needed")
        capacity = self.config.evaluation_capacity
        encoded, _ = self.network.apply({"params": params}, {kind: rows}, capacity, method="encode")
        return encoded[kind]

    def begin(self, params: dict, source: Stream, task_B: jax.Array, room: int) -> tuple[jax.Array, Decoding]:
        """Gives the command: logits_BV of the first word, and what is needed for `room` - 1 more."""
        return begin(self.network, params, source, task_B, room)

    def step(self, params: dict, decoding: Decoding, words_B: jax.Array) -> tuple[jax.Array, Decoding]:
        """Takes one more word of each row: logits_BV of the next one."""
        return step(self.network, params, decoding, words_B)


def example(config: MultiModelConfig, rows: int = 1) -> dict:
    """A batch of zeros with rows of every kind in the config."""
    return {
        kind: {name: jnp.zeros((rows, *shape), dtype) for name, (shape, dtype) in row.items()}
        for kind, row in row_shapes(config).items()
    }
