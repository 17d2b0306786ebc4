"""python -m lwm.generate: text, a picture, a clip, or text with pictures, from text and pictures.

    python -m lwm.generate --workdir=runs/lwm --prompt="To be, or"
    python -m lwm.generate --workdir=runs/lwm --prompts=questions.txt --output=answers.jsonl
    python -m lwm.generate --workdir=runs/lwm --prompt="a bow tie" --kind=image --output=tie.png
    python -m lwm.generate --workdir=runs/lwm --prompt="a bow tie" --kind=video --frames=16 --output=tie.mp4
    python -m lwm.generate --workdir=runs/lwm --video=tie.mp4
    python -m lwm.generate --workdir=runs/clips --video=tie.mp4 --template=chat --prompt="What is odd?"
    python -m lwm.generate --workdir=runs/lwm --kind=any --prompt="a bow tie" --output=tie.md
    python -m lwm.generate --workdir=runs/dreamllm --prompt="animals" --output=animals
    python -m lwm.generate --workdir=runs/multimodel --task=english_french --prompt="a black cat"
    python -m lwm.generate --workdir=runs/multimodel --task=speech --audio=hello.wav

Guidance is LWM's: 5 for an image and the first frame of a video, none for the others. Equal seeds give equal
results. With more than one device all of them form one ring, along which the cache is cut.

A DreamLLM writes a page: text in which it draws pictures where it likes, left as index.html, page.md and PNGs
in a folder, if none is given WORKDIR/page, then page_2 and so on. Guidance is that of its diffusion, 2 as in
its paper, and it runs on one device. So does a MultiModel, which answers a text, a picture or a sound in one
of its tasks.
"""

from absl import flags

from lwm.errors import UserError, check_utf8
from lwm.launcher import launch, refuse_flags, start_devices
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
    "File to write: .png for an image, .gif or .mp4 for a video, .md for any; or of text. A page: a folder.",
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
PICTURES = flags.DEFINE_integer("pictures", 8, "Pictures that a DreamLLM draws, at most.", lower_bound=0)
STEPS = flags.DEFINE_integer("steps", 50, "Steps of denoising for each of these.")
SAMPLER = flags.DEFINE_enum("sampler", "dpm", ["dpm", "ddim"], "What makes these: DPM-Solver++ or DDIM.")
TASK = flags.DEFINE_string("task", "", "Of a MultiModel: one of those that it learned.")
AUDIO = flags.DEFINE_string("audio", "", "WAV file for a MultiModel to hear.")
BEAMS = flags.DEFINE_integer("beams", 1, "Texts that a MultiModel weighs; 1 = greedy.", lower_bound=1)
LWM_GUIDANCE, LWM_FRAMES, DREAM_GUIDANCE = 5.0, 8, 2.0


def main():
    from lwm.serving import page_files, pages, requests, sampling
    from lwm.serving.attachments import read_text

    if len(given := [flag.name for flag in (PROMPT, PROMPT_FILE, PROMPTS) if flag.value]) > 1:
        raise UserError(f"{given[1]}: given together with --{given[0]}; give one of them")
    check_utf8("prompt", PROMPT.value)
    if (model := sampling.model_name(WORKDIR.value)) == "multimodel":
        answer()
        return
    refuse_flags(TASK, AUDIO, BEAMS, why="is for a MultiModel, which is not what the workdir holds")
    dreams = model == "dreamllm"
    usual = DREAM_GUIDANCE if dreams else LWM_GUIDANCE
    guidance = usual if GUIDANCE.value is None else GUIDANCE.value
    if dreams:
        refuse_flags(KIND, PROMPTS, VIDEO, FRAMES, TEMPLATE, VQGAN, TENSOR, why="says nothing to a DreamLLM")
    else:
        refuse_flags(PICTURES, STEPS, SAMPLER, why="is for a DreamLLM, which is not what the workdir holds")
        check(guidance)
    start_devices()
    from lwm.generation.sampler import Sampling

    asked = requests.Request(
        prompt=read_text("prompt_file", PROMPT_FILE.value) if PROMPT_FILE.value else PROMPT.value,
        image=IMAGE.value,
        video=VIDEO.value,
        frames=FRAMES.value,
        chat=TEMPLATE.value == "chat",
        vqgan=VQGAN.value,
        new_tokens=NEW_TOKENS.value,
        sampling=Sampling(TEMPERATURE.value, TOP_K.value, TOP_P.value, guidance),
        seed=SEED.value,
        output=OUTPUT.value or (page_files.free_folder(WORKDIR.value) if dreams else ""),
    )
    prompts = read_text("prompts", PROMPTS.value).splitlines() if PROMPTS.value else []
    if dreams:
        run = pages.load(WORKDIR.value, stage=STAGE.value, data=DATA.value)
        pages.write(run, asked, pictures=PICTURES.value, steps=STEPS.value, method=SAMPLER.value)
        return
    run = sampling.load(WORKDIR.value, stage=STAGE.value, data=DATA.value, tensor=TENSOR.value)
    if run.looks and KIND.value != "text":
        raise UserError(
            f"kind: {KIND.value}, but this model looks at pictures and makes text; use --kind=text"
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


def answer():
    """What a MultiModel says to stdout, and to the output."""
    shown = (KIND, PROMPTS, VIDEO, FRAMES, TEMPLATE, VQGAN, TENSOR, PICTURES, STEPS, SAMPLER)
    refuse_flags(
        *shown, GUIDANCE, TEMPERATURE, TOP_K, TOP_P, SEED, NEW_TOKENS, why="says nothing to a MultiModel"
    )
    start_devices()
    from lwm.serving import answers
    from lwm.serving.attachments import read_text
    from lwm.serving.requests import save
    from lwm.serving.task_runs import open_tasks

    run = open_tasks(WORKDIR.value, data=DATA.value, stage=STAGE.value)
    prompt = read_text("prompt_file", PROMPT_FILE.value) if PROMPT_FILE.value else PROMPT.value
    text = answers.answer(run, TASK.value, answers.Given(prompt, IMAGE.value, AUDIO.value), beams=BEAMS.value)
    print(text)
    save(OUTPUT.value, {OUTPUT.value: f"{text}\n".encode()})


def check(guidance):
    """Raises UserError for flags that contradict each other; not for those of a DreamLLM."""
    from lwm.generation.vision import check_output

    if KIND.value == "text" and GUIDANCE.value not in (None, 1):
        raise UserError(f"guidance: {guidance} is for --kind=image, video and any; leave it out for text")
    if PROMPTS.value and (KIND.value != "text" or IMAGE.value or VIDEO.value):
        raise UserError(f"prompts: {PROMPTS.value} is for --kind=text without pictures; use --prompt")
    if IMAGE.value and VIDEO.value:
        raise UserError(f"video: {VIDEO.value}, but there is an --image too; give one of them")
    if (IMAGE.value or VIDEO.value) and KIND.value in ("image", "video"):
        raise UserError(f"kind: {KIND.value} is made from text alone; leave --image and --video out")
    check_output(OUTPUT.value, KIND.value)


if __name__ == "__main__":
    launch(main)
