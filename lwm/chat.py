"""python -m lwm.chat: a conversation about a text file, an image, a video, or anything.

    python -m lwm.chat --workdir=runs/smollm2
    python -m lwm.chat --workdir=runs/smollm2 --file=book.txt
    python -m lwm.chat --workdir=runs/lwm --video=film.mp4 --question="What happens at the end?"

Questions come from the terminal (Ctrl-D ends it), or one a line from a pipe. What the conversation is about
is read once; a turn adds only its own tokens to the cache. Frames are sampled evenly over the video, as many
as fit into the context.
"""

import sys

from absl import flags

from lwm.errors import UserError
from lwm.launcher import launch, start_devices
from lwm.run_flags import DATA, SEED, STAGE, TENSOR, TOP_K, TOP_P, VQGAN, WORKDIR

FILE = flags.DEFINE_string("file", "", "Text file to talk about.")
IMAGE = flags.DEFINE_string("image", "", "Image to talk about.")
VIDEO = flags.DEFINE_string("video", "", "Video to talk about.")
FRAMES = flags.DEFINE_integer("frames", 0, "Frames sampled of the video; 0 = as many as fit.", lower_bound=0)
QUESTION = flags.DEFINE_string("question", "", "One question; its answer is all that is printed.")
NEW_TOKENS = flags.DEFINE_integer("new_tokens", 512, "Tokens of an answer, at most.", lower_bound=1)
ROOM = flags.DEFINE_integer(
    "room", 4096, "Tokens that all turns together may add; the context bounds it.", lower_bound=1
)
TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 = always the most likely token.", lower_bound=0)


def main():
    given = [flag.name for flag in (FILE, IMAGE, VIDEO) if flag.value]
    if len(given) > 1:
        raise UserError(f"{given[1]}: given together with --{given[0]}; talk about one of them")
    start_devices()
    from lwm.generation.sampler import Sampling
    from lwm.serving import attachments, sampling
    from lwm.serving.codec import open_codec
    from lwm.serving.conversation import Conversation

    document = attachments.read_text("file", FILE.value) if FILE.value else ""
    run = sampling.load(WORKDIR.value, stage=STAGE.value, data=DATA.value, tensor=TENSOR.value)
    picture = []
    if IMAGE.value or VIDEO.value:
        name = given[0]
        if run.looks:
            raise UserError(
                f"{name}: {IMAGE.value or VIDEO.value} goes beside the text of this model, which answers one "
                "question at a time; ask it by lwm.generate --template=chat"
            )
        codec = open_codec(run, VQGAN.value, f"{name}: {IMAGE.value or VIDEO.value}")
        reserve = min(NEW_TOKENS.value + 128, run.context_length // 2)
        file = {"image": IMAGE.value, "video": VIDEO.value, "frames": FRAMES.value}
        picture = attachments.look(codec, run.context_length, **file, reserve=reserve)
    conversation = Conversation(
        run,
        about=f"{given[0]}: {FILE.value or IMAGE.value or VIDEO.value}" if given else "question:",
        document=document,
        picture=picture,
        room=ROOM.value,
        new_tokens=NEW_TOKENS.value,
        sampling=Sampling(TEMPERATURE.value, TOP_K.value, TOP_P.value),
        seed=SEED.value,
    )
    if QUESTION.value:
        answer(conversation, QUESTION.value)
        return
    try:
        for question in questions():
            try:
                answer(conversation, question)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)


def questions():
    """Yields what is typed, or the lines of a pipe, without empty ones, in whatever bytes they are."""
    sys.stdin.reconfigure(errors="surrogateescape")
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    import readline

    readline.set_history_length(1000)  # with the module in, `input` knows arrow keys and a history
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def answer(conversation, question: str) -> None:
    """Prints the answer as it comes, and a line break."""
    for piece in conversation.ask(question):
        print(piece, end="", flush=True)
    print(flush=True)


if __name__ == "__main__":
    launch(main)
