"""python -m lwm.prepare: a folder of videos, images and text becomes a data folder for training.

    python -m lwm.prepare --input=my_files --output=data --resolution=64
    python -m lwm.train --config=experiments/vqgan.py … (learns to encode data/frames)
    python -m lwm.prepare --input=my_files --output=data --resolution=64 --vqgan=vqgan_workdir

The second call encodes the pictures, once, and adds the sources with vision. Both resume where they stopped.

    python -m lwm.prepare --pages --input=my_pages --output=data --resolution=32 --tokenizer=bytes

makes documents of text and pictures in any order, for a DreamLLM, of the .jsonl files in a folder. A line:

    {"texts": ["A cow.", " A goat."], "images": [{"path": "cow.png", "position": 1, "similarity": 0.31}]}

which shows cow.png before the text of number 1, from 0. `lwm/data/interleaved.py` tells all that it may say.
"""

import sys

from absl import flags

from lwm.errors import UserError
from lwm.launcher import launch, refuse_flags, start_devices

INPUT = flags.DEFINE_string("input", None, "Folder with videos, images, .txt, .md, .jsonl.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Data folder to make, or to go on with.", required=True)
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "train", "bytes, train (SentencePiece), or a tokenizer.model or tokenizer.json file."
)
VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 8192, "Pieces of a trained tokenizer.", lower_bound=300)
RESOLUTION = flags.DEFINE_integer("resolution", 256, "Side of the square frames in pixels.", lower_bound=1)
FPS = flags.DEFINE_float("fps", 4.0, "Frames kept per second of video; 0: every frame.", lower_bound=0)
HELDOUT = flags.DEFINE_float("heldout", 0.1, "Share of documents and of each video's end not trained on.")
MAX_FRAMES = flags.DEFINE_integer("max_frames", 0, "Frames kept of a video's start; 0: all.", lower_bound=0)
MAX_CAPTION = flags.DEFINE_integer("max_caption", 0, "Leave out pictures with more tokens of text; 0: none.")
VIEWS = flags.DEFINE_integer("views", 1, "Versions of each training picture, one uncropped.", lower_bound=1)
VQGAN = flags.DEFINE_string("vqgan", None, "Workdir of the VQGAN that encodes the pictures.")
PAGES = flags.DEFINE_bool(
    "pages", False, "The .jsonl files of the folder are documents of text and pictures, for a DreamLLM."
)
MIN_SIMILARITY = flags.DEFINE_float(
    "min_similarity", None, "Pages: leave out pictures that are said to be less similar to their text."
)
SKIP_BROKEN = flags.DEFINE_bool(
    "skip_broken", False, "Pages: leave out, and name, lines and pictures that are wrong; else stop there."
)
BEAM_RUNNER = flags.DEFINE_string("beam_runner", None, "Works on Apache Beam: DirectRunner, FlinkRunner, …")
BEAM_OPTIONS = flags.DEFINE_multi_string("beam_options", [], "name=value for Beam; may be given repeatedly.")
SEED = flags.DEFINE_integer("seed", 0, "Chooses the held-out documents and the crops of --views.")


def load_encoder(workdir: str):
    """Returns encode: uint8 [F, R, R, 3] -> int32 [F, P] by a trained VQGAN, and the size of its codebook."""
    import jax

    from lwm.data.media import in_batches
    from lwm.systems import build_model
    from lwm.training.checkpoints import load_params

    config, _, params = load_params(workdir)
    if config["model"]["name"] != "vqgan":
        raise UserError(f"vqgan: {workdir} holds a model {config['model']['name']!r}; give a VQGAN's workdir")
    model = build_model(config["model"])
    if model.config.resolution != RESOLUTION.value:
        raise UserError(
            f"resolution: {RESOLUTION.value}, but the VQGAN of {workdir} was trained at "
            f"{model.config.resolution}; prepare at that size or train another"
        )
    encode = jax.jit(model.encode)
    return in_batches(lambda images: encode(params, images), size=64), model.config.codes


def bar(items, label, total, unit):
    """Yields `items` and shows how far they are on a terminal."""
    from rich.console import Console
    from rich.progress import track

    return iter(track(items, f"{label} ({unit})", total, console=Console(stderr=True)))


def main():
    from lwm.data.progress import lines
    from lwm.data.workers import check_workers

    if PAGES.value:
        refuse_flags(FPS, MAX_FRAMES, MAX_CAPTION, VIEWS, VQGAN, why="says nothing to --pages")
        make = make_pages
    else:
        refuse_flags(MIN_SIMILARITY, SKIP_BROKEN, why="is for --pages, which is not given")
        make = make_documents
    make(
        input=INPUT.value,
        output=OUTPUT.value,
        resolution=RESOLUTION.value,
        heldout=HELDOUT.value,
        seed=SEED.value,
        track=bar if sys.stderr.isatty() else lines,
        workers=check_workers(BEAM_RUNNER.value, BEAM_OPTIONS.value),
    )


def make_documents(**common):
    """Videos, images and text to documents of tokens and codes."""
    from lwm.data.preparation import prepare

    if VQGAN.value:
        start_devices()
    done = prepare(
        **common,
        tokenizer=TOKENIZER.value,
        vocab_size=VOCAB_SIZE.value,
        fps=FPS.value,
        max_frames=MAX_FRAMES.value,
        max_caption=MAX_CAPTION.value,
        views=VIEWS.value,
        vqgan=VQGAN.value,
        load_encoder=load_encoder,
    )
    tell(done["broken"], done["sources"], ("documents", "tokens"))
    print(f"frames: {done['frames']['train']:,} train, {done['frames']['heldout']:,} heldout")
    print(f"{OUTPUT.value} is ready; {len(done['broken'])} broken files or lines left out")


def make_pages(**common):
    """Manifests to documents of text and pictures."""
    from lwm.data.interleaved_preparation import prepare_pages

    if TOKENIZER.value not in ("bytes", "train"):
        raise UserError(f"tokenizer: {TOKENIZER.value} is neither bytes nor train; --pages wants one of them")
    if TOKENIZER.value == "bytes":
        refuse_flags(VOCAB_SIZE, why="is for --tokenizer=train")
    done = prepare_pages(
        **common,
        vocab_size=VOCAB_SIZE.value if TOKENIZER.value == "train" else 0,
        min_similarity=MIN_SIMILARITY.value,
        skip_broken=SKIP_BROKEN.value,
    )
    tell(done["broken"], done["pages"], ("documents", "tokens", "images"))
    if (least := MIN_SIMILARITY.value) is not None:
        print(f"dissimilar: {done['dissimilar']:,} pictures less similar than {least:g} left out")
    print(f"{OUTPUT.value} is ready; {len(done['broken'])} broken lines or pictures left out")


def tell(broken, sources, what):
    """Prints each thing that is broken, and counts of each split of each source."""
    for name, reason in broken:
        print(f"broken: {name} {reason}", file=sys.stderr)
    for source, by_split in sources.items():
        for split, counts in by_split.items():
            print(f"{source} {split}: " + ", ".join(f"{counts[one]:,} {one}" for one in what))


if __name__ == "__main__":
    launch(main)
