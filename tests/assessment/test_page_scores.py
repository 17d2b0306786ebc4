"""Held-out documents of text and pictures: what is asked of a DreamLLM, and how answers are scored."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from lwm.assessment import held_out, page_answers, page_drawings, page_scores
from lwm.assessment.page_documents import Choice, Wish, choices_of, picture_key, questions_of, wishes_of
from lwm.data.interleaved_preparation import prepare_pages
from lwm.data.interleaved_records import pages
from lwm.data.manifest import load_manifest
from lwm.data.tokenizers import ByteTokenizer
from lwm.errors import UserError
from lwm.serving import pages as page_runs
from lwm.training.checkpoints import load_params, stage_folder, write_params

COLOURS = {"red": (230, 0, 0), "blue": (0, 0, 230), "green": (0, 200, 0)}
FORMS = {"questions": "comprehension", "stamps": "pairs"}
ASKED = "Which colour? "


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Squares in three colours: asked about, captioned, and in albums of two."""
    folder = tmp_path_factory.mktemp("pages")
    lines = {"questions": [], "stamps": [], "albums": []}
    for split, shades in (("train", 4), ("heldout", 2)):
        for shade in range(shades):
            for name, colour in COLOURS.items():
                path = f"{split}_{shade}_{name}.png"
                Image.new("RGB", (8, 8), tuple(max(own - 9 * shade, 0) for own in colour)).save(folder / path)
                about, picture = {"split": split}, {"path": path, "position": 1}
                asked = {"texts": [ASKED, name], "learned": [False, True]}
                lines["questions"].append(about | asked | {"images": [picture | {"position": 0}]})
                caption = f"{'Dark ' * shade}{name}."
                lines["stamps"].append(about | {"texts": [caption], "images": [picture]})
                two = [picture, picture | {"position": 2}]
                lines["albums"].append(about | {"texts": [name, caption], "images": two})
    for source, own in lines.items():
        text = "".join(json.dumps(line | {"source": source}) + "\n" for line in own)
        (folder / f"{source}.jsonl").write_text(text)
    output = tmp_path_factory.mktemp("data") / "data"
    prepare_pages(input=str(folder), output=output, resolution=8, heldout=0.0, track=lambda items, *_: items)
    return str(output)


@pytest.fixture(scope="module")
def workdir(data, dream_run, tmp_path_factory):
    """That of random weights, on the documents of `data`."""
    folder = tmp_path_factory.mktemp("run")
    config, block, params = load_params(dream_run)
    mixture = dict.fromkeys(("questions", "stamps", "albums"), 1.0)
    block = block | {"mixture": mixture, "forms": FORMS}
    config = config | {"stages": {"only": block}, "data": {"path": data}}
    (folder / "config.json").write_text(json.dumps(config))
    write_params(stage_folder(folder, 0, "only"), params, {"config": config, "stage": block})
    return str(folder)


class Oracle:
    """Foretells the targets, but for dreams if it has none."""

    def __init__(self, config, dreams=True):
        self.config, self.dreams = config, dreams

    def logits(self, params, batch):
        logits_BTV = 20.0 * jax.nn.one_hot(batch["targets"], self.config.language.vocab_size)
        closed = logits_BTV.at[..., self.config.dream_start].set(-20.0)
        return logits_BTV if self.dreams else closed


def track(items, title):
    return items


def test_documents_are_asked_by_their_form(data):
    tokenizer = ByteTokenizer()
    held = pages(data, "questions", "heldout")
    questions = list(questions_of(held, "comprehension", tokenizer))
    assert {(one.asked, one.answer) for one in questions} == {(ASKED.strip(), name) for name in COLOURS}
    assert not list(questions_of(held, "joint", tokenizer)) and not list(wishes_of(held))
    stamps = pages(data, "stamps", "heldout")
    captions = [one.answer for one in questions_of(stamps, "pairs", tokenizer)]
    assert captions.count("Dark red.") == 1 and len(captions) == 6
    assert [tokenizer.decode(wish.text) for wish in wishes_of(stamps)] == captions
    assert not list(questions_of(stamps, "creation", tokenizer))
    (asked, choice) = next(iter(choices_of(data, load_manifest(data)["pages"], tokenizer).items()))
    assert asked == ASKED.strip() and sorted(choice.answers) == sorted(COLOURS)
    assert choice.of[stamps[0].images[0].tobytes()] == choice.answers.index(captions[0].strip("."))


def test_who_knows_all_has_no_nats_and_opens_dreams_where_they_belong(data, workdir):
    run = page_runs.load(workdir)
    albums = pages(data, "albums", "heldout")
    for dreams, wanted in ((True, 1.0), (False, 0.0)):
        oracle = Oracle(run.model.config, dreams)
        reader = page_answers.Reader(oracle, {}, run.tokenizer, run.context_length)
        placed, said = page_answers.document_scores(reader, albums, samples=0)
        assert (placed[1].value, placed[4]) == (wanted, 6)
        assert said[1].value == pytest.approx(0, abs=1e-6) and said[2] > 1 and said[4] == 6
    assert not list(page_answers.document_scores(reader, [], 0))


def test_a_model_is_asked_for_all_that_its_stage_has_learned(workdir, monkeypatch):
    monkeypatch.setattr(page_drawings, "drawn", lambda model, params, wishes, **how: np.stack(
        [wish.picture for wish in wishes]))  # fmt: skip
    monkeypatch.setattr(page_drawings, "train_judge", functools.partial(page_drawings.train_judge, steps=9))
    monkeypatch.setattr(page_answers, "_written", lambda model, params, tokenizer, own, new_tokens: [
        one.answer for one in own])  # fmt: skip
    rows = {row["name"]: row for row in page_scores.evaluate_pages(workdir, track=track)}
    assert rows["questions_which_colour_accuracy"]["value"] == 1
    assert rows["questions_which_colour_accuracy"]["baseline"] == pytest.approx(1 / 3)
    assert rows["stamps_caption_exact_match"]["n"] == 6 and rows["stamps_caption_words_f1"]["value"] == 1
    assert 0 <= rows["albums_placement_f1"]["value"] <= 1
    assert rows["albums_nats"]["value"] > rows["albums_nats"]["baseline"]  # of random weights
    assert rows["stamps_caption_nats"]["value"] > 1  # of random weights
    real = rows["judge_which_colour_conditional_accuracy"]["value"]
    drawn = [rows[f"stamps_which_colour_conditional_accuracy_{scale}"] for scale in (1, 2, 5)]
    assert all(row["value"] == real for row in drawn)
    assert rows["stamps_short_which_colour_conditional_accuracy_2"]["n"] == 3


class Unasked:
    """A judge that says 0 to everything."""

    def answers(self, pictures_NRRC):
        return dict.fromkeys(("tone", "base"), np.zeros(len(pictures_NRRC), int))

    def features(self, pictures_NRRC):
        return pictures_NRRC.reshape(len(pictures_NRRC), -1)[:, :2].astype(np.float32)


def court_of(tones, bases, held_tones, held_bases):
    """A court of pictures with these answers, and the held-out ones; -1 = no answer."""
    known = [np.full((2, 2, 3), number, np.uint8) for number in range(len(tones) + len(held_tones))]
    answers = {"tone": np.array(tones), "base": np.array(bases)}
    choices = {}
    for (asked, own), held in zip(answers.items(), (held_tones, held_bases), strict=True):
        numbered = zip(known, [*own, *held], strict=True)
        of = {picture_key(picture): int(number) for picture, number in numbered if number >= 0}
        choices[asked] = Choice([str(number) for number in range(9)], of)
    features_NF = Unasked().features(np.stack(known[: len(tones)]))
    court = page_drawings.Court(Unasked(), choices, features_NF, answers)
    return court, np.stack(known[len(tones) :])


def test_the_commonest_answer_is_that_of_training():
    court, held = court_of([0, 0, 1], [-1, 2, 2], [0, 1, 1, 1], [2, 2, -1, 3])
    usual = {
        asked: (baseline, name) for asked, _, baseline, name, _ in page_drawings.real_scores(court, held)
    }
    assert usual["tone"] == (1 / 4, "commonest answer")
    assert usual["base"] == (2 / 3, "commonest answer")


def test_where_the_commonest_answer_is_never_asked_for_chance_is_the_baseline():
    court, held = court_of([0, 0, 1, 2, 3], [1] * 5, [1, 2, 2], [1] * 3)
    found = list(page_drawings.real_scores(court, held))
    assert found[0][2:] == (1 / 2, "chance among those asked for", 3)
    assert found[1][2:] == (1, "commonest answer", 3)


def test_pictures_of_training_are_of_the_same_kinds_and_taken_once_while_there_are_others():
    tones, bases = [0, 0, 0, 1, 1, 2, -1, -1], [5, 5, 5, 5, 5, 5, 6, 7]
    court, held = court_of(tones, bases, [0, 1, 0, 1, 2, 2, -1, -1], [7, 7, 7, 7, 7, 7, 6, -1])
    chosen = page_drawings.alike(court, held)
    assert [tones[number] for number in chosen[:6]] == [0, 1, 0, 1, 2, 2]
    assert len(set(chosen[:4])) == 4 and chosen[6] == 6
    assert chosen[7] in {0, 1, 2, 7}  # of those that are left
    np.testing.assert_array_equal(chosen, page_drawings.alike(court, held))
    assert any((page_drawings.alike(court, held, seed) != chosen).any() for seed in range(1, 9))


def test_the_distance_stands_beside_that_of_pictures_of_training_of_the_same_kinds():
    rng = np.random.default_rng(0)
    tones = np.arange(128) % 2
    pictures = (100 * tones + rng.integers(0, 99, 128)).astype(np.uint8)[:, None] + np.arange(
        2, dtype=np.uint8
    )
    court, held = court_of(tones.tolist(), [0] * 128, [0] * 64, [0] * 64)
    held[:, 0, 0, :2] = pictures[tones == 0]
    choices = {"tone": Choice(["0", "1"], {picture_key(picture): 0 for picture in held})}
    court = court._replace(choices=choices, features_NF=pictures.astype(np.float32))
    (_, share, *_), (asked, score, usual, name, n) = page_drawings.drawing_scores(court, held, held)
    assert (share.value, asked, n, name) == (1, "", 64, "pictures of training of the same kinds")
    assert score.value == pytest.approx(0, abs=1e-6)
    assert abs(usual) < 100  # |μ - μ'|² of the other tone would be 2 · 100²


def test_halves_by_length_are_halves_whatever_the_lengths():
    lengths = [7] * 90 + [3] * 20 + [9] * 18
    parts = page_scores.by_length([Wish([0] * length, None) for length in lengths])
    assert {name: len(own) for name, own in parts.items()} == {"": 128, "short": 64, "long": 64}
    assert sorted(np.concatenate([parts["short"], parts["long"]])) == sorted(parts[""]) == list(range(128))
    assert max(lengths[at] for at in parts["short"]) <= min(lengths[at] for at in parts["long"])
    assert set(range(90, 110)) <= set(parts["short"]) and 0 in parts["short"] and 89 in parts["long"]
    assert [len(own) for own in page_scores.by_length([Wish([0], None)]).values()] == [1, 0, 1]


@pytest.mark.slow
def test_answers_and_drawings_are_the_models_own(workdir):
    held_out.run(workdir, data="", stage=None, samples=4, track=track, max_tokens=0)
    with open(f"{workdir}/evaluation.jsonl") as file:
        rows = {row["name"]: row for row in map(json.loads, file)}
    assert rows["stamps_which_colour_conditional_accuracy_1"]["n"] == 4
    assert rows["questions_which_colour_accuracy"]["n"] == 4


def test_data_without_documents_is_told(workdir, dream_run):
    with pytest.raises(UserError, match="has no documents with pictures"):
        page_scores.evaluate_pages(dream_run, track=track)
