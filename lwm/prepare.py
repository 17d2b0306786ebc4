"""python -m lwm.prepare: a folder of videos, images and text becomes a data folder for training.

    python -m lwm.prepare --input=my_files --output=data --resolution=64
    python -m lwm.train --config=experiments/vqgan.py … (learns to encode data/frames)
    python -m lwm.prepare --input=my_files --output=data --resolution=64 --vqgan=vqgan_workdir

The second call encodes the pictures, once, and adds the sources with vision. Both resume where they stopped.
"""

from absl import flags

from lwm.launcher import launch, start_devices

_INPUT = flags.DEFINE_string(
    "input", None, "Folder with videos, images, .txt, .md and .jsonl files.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "Data folder to make, or to go on with.", required=True)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "train", "bytes, train (SentencePiece on this text) or a .model file."
)
_VOCAB_SIZE = flags.DEFINE_integer(
    "vocab_size", 8192, "Pieces of a tokenizer that is trained.", lower_bound=300
)
_RESOLUTION = flags.DEFINE_integer("resolution", 256, "Side of the square frames, in pixels.", lower_bound=1)
_FPS = flags.DEFINE_float("fps", 4.0, "Frames kept per second of video; 0 keeps every frame.", lower_bound=0)
_HELDOUT = flags.DEFINE_float(
    "heldout", 0.1, "Share of documents, and of each video's end, kept from training."
)
_MAX_FRAMES = flags.DEFINE_integer(
    "max_frames", 0, "Frames kept of a video, from its start; 0: all.", lower_bound=0
)
_MAX_CAPTION = flags.DEFINE_integer(
    "max_caption",
    0,
    "Leave out pictures with more tokens of text, and name them; 0: none.",
    lower_bound=0,
)
_VQGAN = flags.DEFINE_string("vqgan", None, "Workdir of the VQGAN that encodes the pictures.")
_SEED = flags.DEFINE_integer("seed", 0, "Chooses the held-out documents.")
_BATCH = 64


def load_encoder(workdir: str):
    """Returns encode: uint8 [F, R, R, 3] -> int32 [F, P] by a trained VQGAN, and the size of its codebook."""
    import jax
    import numpy as np

    from lwm.systems import build_model
    from lwm.training.checkpoints import load_params

    config, _, params = load_params(workdir)
    model = build_model(config["model"])
    apply = jax.jit(model.encode)

    def encode(frames):
        codes = []
        for start in range(0, len(frames), _BATCH):
            batch = frames[start : start + _BATCH]
            padded = np.pad(batch, ((0, _BATCH - len(batch)), (0, 0), (0, 0), (0, 0)))
            codes.append(np.asarray(apply(params, padded))[: len(batch)])
        return np.concatenate(codes)

    return encode, model.config.codes


def main():
    from lwm.data.preparation import prepare

    if _VQGAN.value:
        start_devices()
    done = prepare(
        input=_INPUT.value,
        output=_OUTPUT.value,
        tokenizer=_TOKENIZER.value,
        vocab_size=_VOCAB_SIZE.value,
        resolution=_RESOLUTION.value,
        fps=_FPS.value,
        heldout=_HELDOUT.value,
        max_frames=_MAX_FRAMES.value,
        max_caption=_MAX_CAPTION.value,
        seed=_SEED.value,
        vqgan=_VQGAN.value,
        load_encoder=load_encoder,
    )
    for name, reason in done["broken"]:
        print(f"broken: {name} {reason}")
    for source, by_split in done["sources"].items():
        for split in ("train", "heldout"):
            counts = by_split[split]
            print(f"{source} {split}: {counts['documents']} documents, {counts['tokens']:,} tokens")
    print(f"frames: {done['frames']['train']:,} train, {done['frames']['heldout']:,} heldout")
    print(f"{_OUTPUT.value} is ready; {len(done['broken'])} broken files or lines left out")


if __name__ == "__main__":
    launch(main)
