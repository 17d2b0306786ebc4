"""The arms of `dreamllm.py`: what the parts are joined by, after they were trained alone and frozen.

parts, emoji_parts        decoder, eyes and language model by themselves; what it draws from its own text
                          encoder is what "conditioning" is compared with
joint                     rows of questions about pictures and as many rows of pictures to be drawn
joint_even                the same with a weight of denoising that makes the gradients of both alike: with the
                          paper's 10 that of creation alone is 0.04 to 0.13 long, of comprehension 1.3 to 2.6
comprehension, creation   the rows of one of the two: as many examples of it
comprehension_flops, creation_flops   one of the two with the compute of "joint" by formula
align                     as "creation", and dreams are to be like what the decoder's text encoder says
queries_Q                 as "creation", with Q dream queries in place of 8
composition               as "creation" on emoji in skin tones, of which some pairs are held out
"""

from typing import NamedTuple

ROWS, PICTURES = 4, 5  # of each objective in a step; of a row, at most
QUERIES = (1, 2, 4, 16, 32, 64)
UNIT = 128  # lengths of rows are multiples of it
# GFLOP of a row of 256 tokens and 5 pictures in a training step, by formula (lwm/scaling/dream_flops.py),
# without pictures that no row of its kind draws.
COST = {"questions": 1.53, "stamps": 2.96}


class Arm(NamedTuple):
    """rows: by source, of a step. parts: the arm whose weights it begins with. last: a score that is there
    when all are.
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
        """Tokens of a row that holds about PICTURES documents, whatever the number of queries."""
        needed = self.queries + 4 + PICTURES * (self.queries + 40)
        return -(-needed // UNIT) * UNIT


def compute(arm: Arm) -> float:
    """Of a step, in steps of "joint"; of rows of other lengths as if they were of 256 tokens."""
    joint = sum(ROWS * cost for cost in COST.values())
    return sum(rows * COST[source] for source, rows in arm.rows.items()) / joint


SAID, DREW = "questions_what_is_this_nats", "stamps_which_kind_is_this_conditional_accuracy_5"
TONED = "stamps_which_tone_is_this_conditional_accuracy_5"
_CREATION, _JOINT = Arm({"stamps": ROWS}, DREW), Arm({"questions": ROWS, "stamps": ROWS}, DREW)
# Even, as two devices share them.
_MATCHED = {source: 2 * round(ROWS / 2 * sum(COST.values()) / cost) for source, cost in COST.items()}
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
