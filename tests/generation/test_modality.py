import jax.numpy as jnp
import numpy as np
import pytest

from lwm.generation.cache import Prompt
from lwm.generation.loop import burst, generate
from lwm.generation.modality import Grammar, advance, allowed_vision, forced, place_after, segments
from lwm.generation.sampler import Sampling

GREEDY = Sampling(temperature=0.0)
MIXED = Grammar(text=259, stop=(2,), start=(40, 41), end=(42, 43, 44), codes=6, codes_per_frame=3)
EOF, EOV = 6, 7


def prompt(*parts):
    """Lists of text ids; tuples of vision ids."""
    tokens = [token for part in parts for token in part]
    vision = [isinstance(part, tuple) for part in parts for _ in part]
    return Prompt(np.array(tokens, np.int32), np.array(vision, bool))


def walk(prompt, tokens, grammar=MIXED, frames=0):
    """After each token: (vision head speaks, ended)."""
    place, seen = place_after([prompt], grammar, frames=frames), []
    for token in tokens:
        place = advance(place, jnp.asarray([token], jnp.int32), grammar)
        seen.append((bool(place.vision_B[0]), bool(place.done_B[0])))
    return place, seen


def test_a_row_goes_over_to_vision_behind_the_ids_of_its_mark_and_back_behind_eov():
    tokens = [50, 40, 41, 1, 1, 1, EOF, 2, 2, 2, EOV, 42, 43, 44, 60]
    place, seen = walk(prompt([1]), tokens)
    assert [vision for vision, _ in seen] == [False, False, *[True] * 8, *[False] * 5]
    # 2 is the id that ends text; inside a frame it is a code.
    assert not any(done for _, done in seen) and int(place.ending_B[0]) == 0
    assert walk(prompt([1]), [50, 2])[1][-1] == (False, True)


def test_a_mark_may_begin_in_the_prompt():
    assert walk(prompt([1, 40]), [41])[1] == [(True, False)]
    assert walk(prompt([1, 40], (0, 0, 0, EOV), [42, 43, 44]), [41])[1] == [(False, False)]
    assert walk(prompt([1]), [40, 50, 41])[1][-1] == (False, False)


@pytest.mark.parametrize(
    ("behind", "vision", "written", "frames"),
    [
        ((), True, 0, 0),
        ((1, 1), True, 2, 0),
        ((1, 1, 1), True, 3, 0),
        ((1, 1, 1, EOF), True, 0, 1),
        ((1, 1, 1, EOF, 1), True, 1, 1),
        ((1, 1, 1, EOV), False, 0, 1),
    ],
)
def test_a_prompt_may_end_inside_a_vision_part(behind, vision, written, frames):
    place = place_after([prompt([1, 9, 40, 41], behind)], MIXED)
    assert (bool(place.vision_B[0]), int(place.frames_B[0])) == (vision, frames)
    assert not vision or int(place.written_B[0]) == written
    assert int(place.ending_B[0]) == (0 if vision else 3)


def test_delimiters_are_forced_when_frames_are_asked_for_and_chosen_when_not():
    places = [place_after([prompt([40, 41], (1, 1, 1))], MIXED, frames=frames) for frames in (0, 1, 2)]
    assert [forced(place, MIXED).tolist() for place in places] == [[-1], [EOV], [EOF]]
    assert allowed_vision(places[0], MIXED)[0].tolist() == [False] * 6 + [True] * 2
    inside = place_after([prompt([40, 41], (1, 1))], MIXED, frames=1)
    assert forced(inside, MIXED).tolist() == [-1]
    assert allowed_vision(inside, MIXED)[0].tolist() == [True] * 6 + [False] * 2


def test_the_closing_mark_is_forced_id_by_id():
    place, ids = place_after([prompt([40, 41], (1, 1, 1, EOV))], MIXED), []
    for _ in range(4):
        ids.append(int(forced(place, MIXED)[0]))
        place = advance(place, jnp.asarray([max(ids[-1], 50)], jnp.int32), MIXED)
    assert ids == [42, 43, 44, -1]


def test_a_row_that_has_ended_does_not_move():
    place, _ = walk(prompt([1]), [2, 40, 41, 3])
    assert not place.vision_B[0] and place.done_B[0]
    frames_only = Grammar(codes=6, codes_per_frame=3)
    assert walk(prompt([1]), [1, 1, 1, EOV], frames_only)[1][-2:] == [(True, False), (False, True)]


def test_segments_are_text_and_whole_frames_without_the_marks():
    sequence = prompt([5, 40, 41], (0, 1, 2, EOF, 3, 4, 5, EOV), [42, 43, 44, 6, 40, 41], (1, 1, 1, EOF, 2))
    first, clip, second, still = segments(*sequence, MIXED)
    assert first == [5] and second == [6]
    assert clip.tolist() == [[0, 1, 2], [3, 4, 5]] and still.tolist() == [[1, 1, 1]]


def naive(full_logits, prompt, grammar, *, new_tokens, unconditional=None, scale=1.0, frames=0):
    """The same by Python and a full forward pass for each token, greedily."""
    tokens, vision = list(map(int, prompt.tokens)), list(map(bool, prompt.is_vision))
    start, P = len(tokens), grammar.codes_per_frame
    said, mode, ending, part = [], False, [], []
    while len(said) < new_tokens:
        text_V, vision_V = full_logits(Prompt(np.array(tokens, np.int32), np.array(vision, bool)))
        if ending:
            token = ending.pop(0)
        elif mode:
            if unconditional is not None:
                other = [*unconditional.tokens, *part]
                is_vision = np.r_[unconditional.is_vision, np.ones(len(part), bool)]
                without_V = full_logits(Prompt(np.array(other, np.int32), is_vision))[1]
                vision_V = without_V + scale * (vision_V - without_V)
            full = len(part) % (P + 1) == P
            if full and frames:
                token = grammar.codes + (len(part) // (P + 1) + 1 == frames)
            elif full:
                token = grammar.codes + int(jnp.argmax(vision_V[grammar.codes : grammar.codes + 2]))
            else:
                token = int(jnp.argmax(vision_V[: grammar.codes]))
        else:
            token = int(jnp.argmax(text_V[: grammar.text]))
        tokens.append(token)
        vision.append(mode)
        said.append((token, mode))
        if mode:
            part.append(token)
            if len(part) % (P + 1) == 0 and token == grammar.codes + 1:
                mode, ending = False, list(grammar.end)
        elif tuple(tokens[-len(grammar.start) :]) == grammar.start and not any(vision[-len(grammar.start) :]):
            mode, part = True, []
        elif token in grammar.stop and not ending:
            break
    assert len(tokens) == start + len(said)
    return said


@pytest.fixture(scope="module")
def opening(debug_model):
    """A prompt and a grammar whose `<vision>` is what the random model says in the middle of its text."""
    model, params = debug_model
    ask = Prompt.of_text(np.random.default_rng(1).integers(3, 259, 9))
    said = next(generate(model, params, [ask], new_tokens=8, grammar=Grammar(text=259), seed=0, text=GREEDY))
    start = tuple(said.tokens_BT[0, 3:5].tolist())
    return ask, Grammar(text=259, start=start, end=(70, 71), codes=50, codes_per_frame=4)


def spoken(said, row=0):
    tokens = np.concatenate([part.tokens_BT[row] for part in said])
    vision = np.concatenate([part.is_vision_BT[row] for part in said])
    return [(int(t), bool(v)) for t, v in zip(tokens, vision, strict=True) if t >= 0]


@pytest.mark.parametrize(("frames", "steps"), [(2, 32), (0, 7)])
def test_text_frames_and_text_again_are_those_of_full_forward_passes(
    debug_model, full_logits, opening, frames, steps
):
    model, params = debug_model
    ask, grammar = opening
    how = {"text": GREEDY, "vision": GREEDY, "frames": frames, "steps": steps, "chunk": 32}
    others = [Prompt.of_text([7, 8, 9]), ask]
    rows = list(generate(model, params, others, new_tokens=30, grammar=grammar, seed=0, **how))
    expected = naive(full_logits, ask, grammar, new_tokens=30, frames=frames)
    assert spoken(rows, 1) == expected
    modes = [vision for _, vision in expected]
    assert modes[:5] == [False] * 5 and modes[5:10] == [True] * 5
    assert frames == 0 or modes[15:18] == [False] * 3


def test_guidance_of_an_opened_part_sees_the_mark_and_its_own_codes_alone(debug_model, full_logits, opening):
    model, params = debug_model
    ask, grammar = opening
    without = Prompt.of_text([1, *grammar.start])
    strong = Sampling(temperature=0.0, guidance=4.0)
    # The mark as the end of what the first part is followed by: a second part opens, and begins anew.
    again = Grammar(**{**vars(grammar), "end": (70, *grammar.start)})
    rows = generate(
        model,
        params,
        [ask],
        new_tokens=26,
        grammar=again,
        seed=0,
        text=GREEDY,
        vision=strong,
        unconditional=[without],
        frames=1,
        chunk=32,
    )
    found = spoken(list(rows))
    expected = naive(full_logits, ask, again, new_tokens=26, unconditional=without, scale=4.0, frames=1)
    assert found == expected
    assert sum(vision for _, vision in expected) > 10
    plain = naive(full_logits, ask, again, new_tokens=26, frames=1)
    assert plain != expected


@pytest.mark.slow
def test_rows_of_a_batch_change_over_each_for_itself(debug_model, opening):
    model, params = debug_model
    ask, grammar = opening
    prompts = [ask, Prompt.of_text([1, 5, 6, 7]), Prompt.of_text([1, *grammar.start])]
    how = {"new_tokens": 24, "grammar": grammar, "seed": 3, "text": GREEDY, "vision": GREEDY, "frames": 1}
    together = list(generate(model, params, prompts, **how))
    for row, one in enumerate(prompts):
        assert spoken(together, row) == spoken(list(generate(model, params, [one], **how)))
    assert spoken(together, 2)[0][1] and not spoken(together, 1)[0][1]


def test_one_program_serves_every_burst(debug_model, opening):
    model, params = debug_model
    ask, grammar = opening
    programs = burst._cache_size()
    rows = list(generate(model, params, [ask], new_tokens=21, grammar=grammar, seed=0, steps=8))
    assert [part.tokens_BT.shape for part in rows] == [(1, 8)] * 3
    assert (rows[-1].tokens_BT[0] >= 0).sum() == 5
    assert burst._cache_size() == programs + 1
