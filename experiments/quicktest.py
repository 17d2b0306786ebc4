"""What `:quicktest` does to the config of a large language model: the same stages, for a CPU.

The order of the stages, their theta, schedules and loss weights stay; sizes, lengths, steps and
meshes shrink, so that a run on eight virtual devices takes about a minute and goes through every
path of the large one.
"""

import ml_collections

# Both hold what `launch/quickstart.sh` prepares; a vocabulary may be larger than the data's.
VOCAB_SIZE, VISION_VOCAB_SIZE = 2048, 1024
FIRST_LENGTH = 256
BATCH_TOKENS = 16_384
STEPS = 3


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns `config` with the size "debug", lengths 256, 512, …, three steps a stage and random weights."""
    config.model.size = "debug"
    config.model.dtype = "float32"
    config.model.vocab_size = VOCAB_SIZE
    config.model.vision_vocab_size = min(config.model.vision_vocab_size, VISION_VOCAB_SIZE)
    for field in ("ffn_chunk", "loss_chunk", "attention_block"):
        config.model[field] = 256
    config.init = ""
    config.log_every = 1
    for index, stage in enumerate(config.stages.values()):
        stage.context_length = FIRST_LENGTH * 2**index
        stage.batch_tokens = BATCH_TOKENS
        stage.steps = STEPS
        stage.warmup_steps = 1
        stage.eval_every = 0
        stage.checkpoint_every = 0
        stage.mesh.tensor = min(stage.mesh.tensor, 2)
        stage.mesh.seq = min(stage.mesh.seq, 2)
        stage.mixture = on_quickstart_sources(stage.mixture)
    return config


def on_quickstart_sources(mixture: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Books and texts are drawn from the source "text", everything that is seen from "video"."""
    weights = {"text": 0.0, "video": 0.0}
    for source, weight in mixture.items():
        weights["text" if source.startswith(("text", "books")) else "video"] += weight
    return ml_collections.ConfigDict({source: weight for source, weight in weights.items() if weight})
