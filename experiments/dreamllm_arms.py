"""The arms of `dreamllm.py`: what the parts are joined by, after they were trained alone and frozen.

parts, emoji_parts        decoder, eyes and language model by themselves; what it draws from its own text
                          encoder is what "conditioning" is compared with
joint                     rows of questions about pictures and as many rows of pictures to be drawn
joint_even                the same with a weight of denoising that makes the gradients of both alike: with the
                          paper's 10 that of creation alone is 0.04 to 0.13 long, of comprehension 1.3 to 2.6
comprehension, creation   the rows of one of the two: as many examples of it
comprehension_flops, creation_flops   one of the two with the compute that "joint" needs, by formula: a row
                          is counted with what its own objective takes. As it is run, "joint" also draws the
                          pictures of questions, with weight 0
align                     as "creation", and dreams are to be like what the decoder's text encoder says
queries_Q                 as "creation", with Q dream queries in place of 8
composition               as "creation" on emoji in skin tones, of which some pairs are held out

A row has space for PICTURES of nearly all stamps whatever else is in it (2.92 to 2.99 of 3 on average, with 1
to 64 queries), so that arms see equally many.
"""

from typing import NamedTuple

from experiments import dreamllm_miniature

ROWS, PICTURES = 5, 3  # of each objective in a step; of a row, at most
QUERIES = (1, 2, 4, 16, 32, 64)
UNIT = 128  # lengths of rows are multiples of it
SLOTS = 60  # of a picture and what is said of it, beside its queries; one stamp of eight takes more


class Arm(NamedTuple):
    """rows: by source, of a step. parts: the arm whose weights it begins with. last: a score that is there
    when all are, as they are written together.
    """

    rows: dict[str, int]
    last: str
    data: str = "stamps"
    parts: str = "parts"
    queries: int = 8
    align: float = 0.0
    vision: float = 10.0  # weight of denoising, in the paper

    @property
    def length(self) -> int:
        """Tokens of a row that holds PICTURES documents, whatever the number of queries."""
        needed = self.queries + 4 + PICTURES * (self.queries + SLOTS)
        return -(-needed // UNIT) * UNIT


def compute(arm: Arm) -> float:
    """FLOPs that a step needs, in steps of "joint": of each row those of its own objective."""
    return _flops(arm) / _flops(_JOINT)


def _flops(arm: Arm) -> float:
    from lwm.models.dream_sizes import SIZES, DreamConfig
    from lwm.scaling.dream_flops import dream_flops

    weights = {"questions": {"vision_weight": 0.0}, "stamps": {"text_weight": 0.0}}
    trains = (*dreamllm_miniature.FROZEN_BESIDE, "language")
    changes = {"queries": arm.queries, "align_weight": arm.align, "trains": trains}
    configs = {source: DreamConfig(**SIZES["tiny"] | changes | weights[source]) for source in arm.rows}
    return sum(
        dream_flops(configs[source], rows, arm.length, PICTURES).model for source, rows in arm.rows.items()
    )


SAID, DREW = "questions_what_is_this_nats", "stamps_which_kind_is_this_conditional_accuracy_5"
TONED = "stamps_which_tone_is_this_conditional_accuracy_5"
_CREATION, _JOINT = Arm({"stamps": ROWS}, DREW), Arm({"questions": ROWS, "stamps": ROWS}, DREW)
# With the compute of "joint", within 3 %.
_MATCHED = {"questions": 13, "stamps": 8}
# In the order in which they are run: what others are compared with first.
ARMS = {
    "parts": Arm({}, f"encoder_{DREW}", parts=""),
    "joint": _JOINT,
    "joint_even": _JOINT._replace(vision=200.0),
    "comprehension": Arm({"questions": ROWS}, SAID),
    "creation": _CREATION,
    "comprehension_flops": Arm({"questions": _MATCHED["questions"]}, SAID),
    "creation_flops": Arm({"stamps": _MATCHED["stamps"]}, DREW),
    "align": _CREATION._replace(align=10.0),
    "emoji_parts": Arm({}, f"encoder_{TONED}", data="emoji", parts=""),
    "composition": _CREATION._replace(last=TONED, data="emoji", parts="emoji_parts"),
    **{f"queries_{count}": _CREATION._replace(queries=count) for count in QUERIES},
}
# The arms by the number of their queries, all else alike.
BY_QUERIES = {ARMS[name].queries: name for name in ("creation", *(f"queries_{count}" for count in QUERIES))}
