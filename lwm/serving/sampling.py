"""From a workdir and a prompt to text; what `lwm.generate`, `lwm.chat` and `lwm.evaluate` begin with.

It stands beside the verbs because it knows both sides: a data folder or an imported model with its tokenizer,
and the samplers.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from etils import epath
from jax.sharding import Mesh

from lwm.data.manifest import load_manifest
from lwm.data.tokenizers import TOKENIZER_FILES, Tokenizer, check_vocabulary, load_tokenizer
from lwm.errors import UserError
from lwm.generation import templates
from lwm.generation.cache import Prompt
from lwm.generation.loop import generate
from lwm.generation.modality import Grammar
from lwm.generation.sampler import Sampling
from lwm.generation.text_stream import TextStream
from lwm.json_text import check_fields, read_block
from lwm.parallel.mesh import make_mesh
from lwm.systems import MODELS, build_model
from lwm.training.checkpoints import load_params

Item = TypeVar("Item")
TRANSFORMERS = "lwm", "cross_attention"  # of MODELS, those that write


class Run(NamedTuple):
    """A transformer with all that a prompt needs.

    config: of its run; block: of its stage. data, manifest: the data folder that it learned from, and its
    data.json; "" and {} for an imported model. mesh: None on one device.
    """

    model: Any
    params: dict
    tokenizer: Tokenizer
    config: dict[str, Any]
    block: dict[str, Any]
    data: str
    manifest: dict
    mesh: Mesh | None

    @property
    def context_length(self) -> int:
        return self.block["context_length"]

    @property
    def looks(self) -> bool:
        """Whether pictures stand beside its text, for cross-attention, and not among its tokens."""
        return hasattr(self.model.config, "frame_tokens")


def load(
    workdir: epath.PathLike,
    *,
    stage: str | None = None,
    data: str = "",
    tensor: int = 1,
    rope_theta: float | None = None,
    serving: bool = True,
) -> Run:
    """The newest checkpoint of a stage (None: the last one), and the tokenizer beside it or of its data.

    More than one device form a ring along the sequence, `tensor` of them a place of it.

    rope_theta: in place of the stage's; a larger one stretches the context of a model as it is. serving:
    parameters lie on the devices as decoding wants them, else as training does.

    Raises:
      UserError: there is no checkpoint of a transformer, no tokenizer or one that does not fit, or the mesh
        does not suit the model.
    """
    mesh = make_mesh(tensor=tensor, seq=-1) if tensor > 1 or jax.device_count() > 1 else None
    kind = _kind(workdir)
    rules = kind.SERVING_RULES if serving else kind.PARTITION_RULES
    try:
        config, block, params = load_params(workdir, stage, mesh, rules)
    except ValueError as error:
        raise UserError(f"tensor: {tensor} on {jax.device_count()} devices; {error}") from error
    if config["model"]["name"] not in TRANSFORMERS:
        raise UserError(
            f"workdir: {workdir} holds another model, {config['model']['name']}; give a transformer's workdir"
        )
    # Prompts come in any length, not in whole stripes.
    own = {"stripe": 0} | ({} if rope_theta is None else {"rope_theta": float(rope_theta)})
    model, data = build_model(config["model"], block, **own), data or config.get("data", {}).get("path", "")
    manifest, tokenizer = load_manifest(data) if data else {}, tokenizer_of(workdir, data)
    check_vocabulary(tokenizer, model.config.vocab_size, workdir)
    return Run(model, params, tokenizer, config, dict(block), data, manifest, mesh)


def model_name(workdir: epath.PathLike) -> str | None:
    """Of MODELS, what the workdir holds, from its config alone; None if there is no config."""
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        return None
    config = read_block(path, fix="give a folder that python -m lwm.train has filled")
    check_fields(path, config, {"model": dict})
    check_fields(path, config.get("model") or {}, {"name": str}, within="model.")
    return (config.get("model") or {}).get("name")


def _kind(workdir: epath.PathLike) -> Any:
    """The class whose rules parameters are loaded by, before anything is known of them but a name."""
    name = model_name(workdir)
    return MODELS[name if name in TRANSFORMERS else "lwm"]


def tokenizer_of(workdir: epath.PathLike, data: str) -> Tokenizer:
    """The tokenizer that lies in the workdir, else that of the data folder.

    Raises:
      UserError: there is neither.
    """
    if any((epath.Path(workdir) / name).exists() for name in TOKENIZER_FILES):
        return load_tokenizer(workdir)
    if not data:
        raise UserError(f"workdir: {workdir} has no tokenizer and no data folder; give one by --data")
    return load_tokenizer(data)


def devices(run: Run) -> contextlib.AbstractContextManager:
    """The run's mesh in context."""
    return contextlib.nullcontext() if run.mesh is None else jax.set_mesh(run.mesh)


def on_devices(run: Run, made: Iterator[Item]) -> Iterator[Item]:
    """Yields what is made with the run's mesh in context; whoever takes it is outside of it."""
    while True:
        with devices(run):
            item = next(made, None)
        if item is None:
            return
        yield item


def check_room(run: Run, prompt: int, least: int = 1, purpose: str = "for a new one") -> int:
    """Tokens that the context still holds behind a prompt of so many; UserError if fewer than `least`."""
    room = run.context_length - prompt
    if room < least:
        raise UserError(
            f"prompt: {prompt} tokens leave {max(room, 0)} of the context's {run.context_length} {purpose}; "
            "shorten it, ask for less, or give another --stage"
        )
    return room


def write(run: Run, prompt: str, *, new_tokens: int, sampling: Sampling, seed: int) -> str:
    """The prompt and at most `new_tokens` tokens after it, up to the end of the document or of the context.

    Raises:
      UserError: the prompt fills the context.
    """
    asked = templates.encode(run.tokenizer, templates.plain(run.tokenizer, prompt))
    pieces = stream(run, asked, new_tokens=new_tokens, sampling=sampling, seed=seed)
    return prompt + "".join(piece for piece, _ in pieces)


def stream(
    run: Run,
    asked: Prompt,
    *,
    new_tokens: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[int] | None = None,
) -> Iterator[tuple[str, int]]:
    """Yields (text, number of its tokens) as it comes, as `write` puts it together.

    stop: ids that end it, None = the end of a document.
    """
    stop = (run.tokenizer.eos,) if stop is None else tuple(stop)
    text = TextStream(run.tokenizer.decode, asked.tokens[~asked.is_vision])
    new_tokens = min(new_tokens, check_room(run, len(asked.tokens)))
    grammar = Grammar(text=run.tokenizer.vocab_size, stop=stop)
    how = {"new_tokens": new_tokens, "grammar": grammar, "seed": seed, "text": sampling}
    for said in on_devices(run, generate(run.model, run.params, [asked], **how)):
        tokens = [int(token) for token in said.tokens_BT[0] if token >= 0]
        yield text.push([token for token in tokens if token not in stop]), len(tokens)
    yield text.end(), 0
