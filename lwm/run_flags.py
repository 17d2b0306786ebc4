"""Flags of the verbs that speak with a trained model: which one, and how its tokens are drawn."""

from absl import flags

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of lwm.train or lwm.convert.", required=True)
STAGE = flags.DEFINE_string("stage", None, "Name of the stage (the last one with a checkpoint if not given).")
DATA = flags.DEFINE_string("data", "", "Data folder with the tokenizer (that of the training run if empty).")
VQGAN = flags.DEFINE_string("vqgan", "", "Workdir of the VQGAN (the one that encoded the data if empty).")
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw among so many likeliest tokens; 0 = all.", lower_bound=0)
TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "Draw among the likeliest tokens of this total probability.", 1e-9, 1.0
)
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.", lower_bound=0)
TENSOR = flags.DEFINE_integer("tensor", 1, "Devices that share each place of the ring.", lower_bound=1)
