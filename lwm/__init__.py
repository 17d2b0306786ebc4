"""lwm: world models on million-length video and language.

Five systems on one set of primitives: LWM (2402.08268), LV-XAttn (2502.02406), MultiModel (1706.05137),
DreamLLM (2309.11499) and a laboratory for multimodal scaling laws (2409.06754).

The map
    ops/         arrays in, arrays out: attention, the ring, blockwise layers, experts, diffusion
    parallel/    the device mesh, the rules that shard parameters, the order of sequences on a ring
    models/      Flax Linen modules with their sizes and PARTITION_RULES
    data/        real files to TFDS data sets to packed, sharded batches (numpy, Grain)
    training/    state, step, optimizer, stages of growing context, checkpoints, metrics
    generation/  caches, sampling of text, images and video, beam search
    evaluation/  likelihood, needles, RULER's kinds of task, clips, tasks, drawings: rows; figures
    interop/     weights of Hugging Face, GGUF and LWM's release, to and fro
    compilation/ a training step through the TPU compiler: memory, collectives, a bound on its time
    scaling/     laws of scaling, fitted and compared; the time of a run by formulas (numpy, scipy)
    serving/     runs in use: text, conversations, pictures, pages, tasks
    assessment/  runs under question: held-out numbers, suites
    <verb>.py    python -m lwm.prepare | train | evaluate | generate | chat | convert | compile | summarize

The letters, used as suffixes of arrays (q_BTNH), in einsum strings and in prose
    B batch                 T query positions        S key positions
    D model width           F feed-forward width     V vocabulary
    N query heads           K key/value heads        G = N / K query heads per key/value head
    H head size             L layers                 E experts
    P codes in a frame      C channels               I frames of a clip (images)

Importing this package, or any module under it, starts no device.
"""
