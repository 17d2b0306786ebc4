"""A conversation with a model whose cache is kept: the document is read once, each turn only adds its own."""

from collections.abc import Iterator, Sequence

from lwm.errors import UserError, check_utf8
from lwm.generation import templates
from lwm.generation.cache import Filled, extend, free, prefill
from lwm.generation.loop import BURST, begin, burst, unfinished
from lwm.generation.modality import Grammar
from lwm.generation.sampler import PLAIN, Sampling
from lwm.generation.text_stream import TextStream
from lwm.serving.sampling import Run, devices

SLACK = 32  # slots that a turn may take beyond its tokens


class Conversation:
    """Questions and answers about a document or a picture, or about nothing.

    Args:
      about: what the document or picture is called in errors, "file: book.txt".
      document, picture: text, or parts of `Codec.look`.
      room: tokens that all turns together may add to what they are about; the context bounds it too.
      new_tokens: of an answer, at most.
    """

    def __init__(
        self,
        run: Run,
        *,
        about: str = "question",
        document: str = "",
        picture: Sequence[templates.Part] = (),
        room: int = 4096,
        new_tokens: int = 512,
        sampling: Sampling = PLAIN,
        seed: int = 0,
    ):
        self._run, self._template = run, templates.template_of(run.tokenizer)
        self._document, self._picture = document, picture
        self._new_tokens, self._sampling, self._seed = new_tokens, sampling, seed
        self._filled: Filled | None = None
        self._turn, self._used, self.answer = 0, 0, []
        opening = self._first("")
        self._limit = min(run.context_length, len(opening.tokens) + room)
        if run.context_length - len(opening.tokens) < 2:
            raise UserError(
                f"{about} takes {len(opening.tokens)} tokens with its template, the context holds "
                f"{run.context_length}; give less, or a --stage of a longer context"
            )

    def ask(self, question: str) -> Iterator[str]:
        """Yields the answer as it comes; afterwards `answer` holds its ids, without the one that ended it.

        Raises:
          UserError: the question is no UTF-8, or does not fit behind what was said; nothing has changed then.
        """
        check_utf8("question", question)
        run, template = self._run, self._template
        if self._filled is None:
            prompt = self._first(question)
        else:
            prompt = templates.encode(run.tokenizer, template.later(question))
        left = self._limit - self._used - len(prompt.tokens)
        if self._filled is not None:
            left = min(left, free(self._filled.cache) - len(prompt.tokens) - SLACK)
        if left < 1:
            raise UserError(
                f"question: {len(prompt.tokens)} tokens do not fit, {self._used} of {self._limit} are used; "
                "ask a shorter one, or start again"
            )
        with devices(run):
            if self._filled is None:
                # What slots a turn wastes on padding is made up for by a few more.
                room = self._limit - len(prompt.tokens) + 8 * SLACK
                self._filled = prefill(run.model, run.params, [prompt], room=room)
            else:
                self._filled = extend(run.model, run.params, self._filled, [prompt])
        self._used += len(prompt.tokens)
        grammar = Grammar(text=run.tokenizer.vocab_size, stop=template.stop)
        most = min(left, self._new_tokens)
        state = begin(self._filled, [prompt], grammar, new_tokens=most, seed=self._seed + self._turn)
        text, self.answer, self._turn = TextStream(run.tokenizer.decode), [], self._turn + 1
        how = {"grammar": grammar, "text": self._sampling, "vision": PLAIN, "steps": BURST}
        while unfinished(state):
            with devices(run):
                state, tokens_BT, _ = burst(run.model, run.params, state, **how)
            self._filled = state.filled
            new = [int(token) for token in tokens_BT[0] if token >= 0 and token not in template.stop]
            self.answer += new
            self._used += len(new)
            yield text.push(new)
        yield text.end()

    def _first(self, question: str):
        parts = self._template.first(question, document=self._document, picture=self._picture)
        return templates.encode(self._run.tokenizer, parts)
