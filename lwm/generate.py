"""python -m lwm.generate: text, a picture, a clip, or text with pictures, from text and pictures.

    python -m lwm.generate --workdir=runs/lwm --prompt="To be, or"
    python -m lwm.generate --workdir=runs/lwm --prompts=questions.txt --output=answers.jsonl
    python -m lwm.generate --workdir=runs/lwm --prompt="a bow tie" --kind=image --output=tie.png
    python -m lwm.generate --workdir=runs/lwm --prompt="a bow tie" --kind=video --frames=16 --output=tie.mp4
    python -m lwm.generate --workdir=runs/lwm --video=tie.mp4
    python -m lwm.generate --workdir=runs/clips --video=tie.mp4 --template=chat --prompt="What is odd?"
    python -m lwm.generate --workdir=runs/lwm --kind=any --prompt="a bow tie" --output=tie.md

Guidance is LWM's: 5 for an image and the first frame of a video, none for the others. Equal seeds give equal
results. With more than one device all of them form one ring, along which the cache is cut.
"""

from absl import flags

from lwm.errors import UserError
from lwm.launcher import launch, start_devices
from lwm.run_flags import DATA, SEED, STAGE, TENSOR, TOP_K, TOP_P, VQGAN, WORKDIR

PROMPT = flags.DEFINE_string("prompt", "", "Text to go on from; for pictures, what is to be seen.")
PROMPT_FILE = flags.DEFINE_string("prompt_file", "", "File with the text of the prompt.")
PROMPTS = flags.DEFINE_string("prompts", "", "File with a prompt on each line; gives JSON lines. For text.")
IMAGE = flags.DEFINE_string("image", "", "Image in the prompt: where <vision> stands in it, else before it.")
VIDEO = flags.DEFINE_string("video", "", "Video in the prompt, likewise.")
TEMPLATE = flags.DEFINE_enum("template", "plain", ["plain", "chat"], "chat: the prompt is a question.")
KIND = flags.DEFINE_enum("kind", "text", ["text", "image", "video", "any"], "What to make.")
OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "File to write: .png for an image, .gif or .mp4 for a video, .md for any; or of text.",
)
NEW_TOKENS = flags.DEFINE_integer("new_tokens", 256, "New tokens of text or any, at most.", lower_bound=1)
FRAMES = flags.DEFINE_integer(
    "frames",
    0,
    "Frames: of a video (0 = 8), of one in the prompt (0 = as fit, or as learned).",
    lower_bound=0,
)
GUIDANCE = flags.DEFINE_float("guidance", None, "Scale of classifier-free guidance, 1 = none.", lower_bound=0)
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "0 = always the most likely token.", lower_bound=0)
LWM_GUIDANCE, LWM_FRAMES = 5.0, 8


def main():
    guidance = LWM_GUIDANCE if GUIDANCE.value is None else GUIDANCE.value
    if KIND.value == "text" and GUIDANCE.value not in (None, 1):
        raise UserError(f"guidance: {guidance} is for --kind=image, video and any; leave it out for text")
    if len(given := [flag.name for flag in (PROMPT, PROMPT_FILE, PROMPTS) if flag.value]) > 1:
        raise UserError(f"{given[1]}: given together with --{given[0]}; give one of them")
    if PROMPTS.value and (KIND.value != "text" or IMAGE.value or VIDEO.value):
        raise UserError(f"prompts: {PROMPTS.value} is for --kind=text without pictures; use --prompt")
    if IMAGE.value and VIDEO.value:
        raise UserError(f"video: {VIDEO.value}, but there is an --image too; give one of them")
    if (IMAGE.value or VIDEO.value) and KIND.value in ("image", "video"):
        raise UserError(f"kind: {KIND.value} is made from text alone; leave --image and --video out")
    from lwm.generation.vision import check_output

    check_output(OUTPUT.value, KIND.value)
    start_devices()
    from lwm.generation.sampler import Sampling
    from lwm.serving import requests, sampling
    from lwm.serving.attachments import read_text

    prompt = read_text("prompt_file", PROMPT_FILE.value) if PROMPT_FILE.value else PROMPT.value
    prompts = read_text("prompts", PROMPTS.value).splitlines() if PROMPTS.value else []
    run = sampling.load(WORKDIR.value, stage=STAGE.value, data=DATA.value, tensor=TENSOR.value)
    if run.looks and KIND.value != "text":
        raise UserError(
            f"kind: {KIND.value}, but this model looks at pictures and makes text; use --kind=text"
        )
    asked = requests.Request(
        prompt=prompt,
        image=IMAGE.value,
        video=VIDEO.value,
        frames=FRAMES.value,
        chat=TEMPLATE.value == "chat",
        vqgan=VQGAN.value,
        new_tokens=NEW_TOKENS.value,
        sampling=Sampling(TEMPERATURE.value, TOP_K.value, TOP_P.value, guidance),
        seed=SEED.value,
        output=OUTPUT.value,
    )
    if prompts:
        requests.write_lines(run, asked, prompts)
    elif KIND.value == "text":
        requests.write(run, asked)
    elif KIND.value == "any":
        requests.interleave(run, asked)
    else:
        frames = 1 if KIND.value == "image" else FRAMES.value or LWM_FRAMES
        requests.paint(run, asked._replace(frames=frames), KIND.value)


if __name__ == "__main__":
    launch(main)
