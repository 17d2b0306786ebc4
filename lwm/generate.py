"""python -m lwm.generate: text, a frame or a clip from a prompt.

    python -m lwm.generate --workdir=runs/lwm --prompt="To be, or"
    python -m lwm.generate --workdir=runs/lwm --prompt="a bow tie" --kind=image --output=tie.png
    python -m lwm.generate --workdir=runs/lwm --prompt="a bow tie" --kind=video --frames=16 --output=tie.gif

The defaults of guidance are LWM's: 5 for an image, 1 (none) for a video. Equal seeds give equal results.
"""

from absl import flags

from lwm.errors import UserError
from lwm.launcher import launch, start_devices

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a transformer's training run.", required=True)
STAGE = flags.DEFINE_string("stage", None, "Name of the stage (the last one with a checkpoint if not given).")
DATA = flags.DEFINE_string("data", "", "Data folder with the tokenizer (that of the training run if empty).")
VQGAN = flags.DEFINE_string("vqgan", "", "Workdir of the VQGAN (the one that encoded the data if empty).")
PROMPT = flags.DEFINE_string("prompt", "", "Text to go on from; for pictures, what is to be seen.")
KIND = flags.DEFINE_enum("kind", "text", ["text", "image", "video"], "What to make.")
OUTPUT = flags.DEFINE_string(
    "output", "", "File to write: .png for an image, .gif for a video; text also goes there."
)
NEW_TOKENS = flags.DEFINE_integer("new_tokens", 256, "Tokens of text, at most.", lower_bound=1)
FRAMES = flags.DEFINE_integer("frames", 8, "Frames of a video.", lower_bound=1)
GUIDANCE = flags.DEFINE_float("guidance", None, "Scale of classifier-free guidance, 1 = none.", lower_bound=0)
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "0 = always the most likely token.", lower_bound=0)
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw among so many likeliest tokens; 0 = all.", lower_bound=0)
TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "Draw among the likeliest tokens of this total probability.", 1e-9, 1.0
)
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.", lower_bound=0)
LWM_GUIDANCE = {"text": 1.0, "image": 5.0, "video": 1.0}


def main():
    guidance = LWM_GUIDANCE[KIND.value] if GUIDANCE.value is None else GUIDANCE.value
    if KIND.value == "text" and guidance != 1:
        raise UserError(f"guidance: {guidance} is for --kind=image and video; leave it out for text")
    if KIND.value != "text":
        from lwm.generation.vision import check_output

        check_output(OUTPUT.value, KIND.value)
    start_devices()
    from etils import epath

    from lwm import sampling
    from lwm.data.manifest import write_whole
    from lwm.generation.sampler import Sampling

    run = sampling.load(WORKDIR.value, stage=STAGE.value, data=DATA.value)
    how = {
        "sampling": Sampling(TEMPERATURE.value, TOP_K.value, TOP_P.value, guidance),
        "seed": SEED.value,
    }
    if KIND.value == "text":
        text = sampling.write(run, PROMPT.value, new_tokens=NEW_TOKENS.value, **how)
        content = text.encode()
        print(text)
    else:
        frames = FRAMES.value if KIND.value == "video" else 1
        content = sampling.paint(run, PROMPT.value, KIND.value, vqgan=VQGAN.value, frames=frames, **how)
    if OUTPUT.value:
        path = epath.Path(OUTPUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


if __name__ == "__main__":
    launch(main)
