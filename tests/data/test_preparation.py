import json
import shutil

import numpy as np
import pytest

from lwm.data import datasets, media
from lwm.data.manifest import load_manifest, write_json, writing_to
from lwm.data.preparation import prepare
from lwm.data.tokenizers import load_tokenizer
from lwm.errors import UserError

SOURCES = ("text", "video", "image", "chat", "sums")


def everything(path):
    """All that a data folder holds, in comparable form."""
    manifest = load_manifest(path)
    found = {"manifest": manifest | {"vqgan": None}}
    for split in ("train", "heldout"):
        found[split] = [frame.tobytes() for frame in datasets.frames(path, split)]
        for source in manifest["sources"]:
            documents = datasets.documents(path, source, split)
            found[source, split] = [
                (
                    one.tokens.tolist(),
                    one.lengths.tolist(),
                    one.vision.tolist(),
                    one.names,
                    one.fields,
                    one.bytes,
                )
                for one in documents
            ]
    return found


def test_the_manifest_counts_what_is_there(data_dir):
    manifest = load_manifest(data_dir)
    assert (manifest["tokenizer"], manifest["vocab_size"], manifest["bos"], manifest["eos"]) == (
        "bytes",
        259,
        1,
        2,
    )
    assert bytes(at - 3 for at in manifest["vision_start"]) == b"<vision>"
    assert bytes(at - 3 for at in manifest["vision_end"]) == b"</vision>"
    assert [manifest[name] for name in ("codes", "eof", "eov", "codes_per_frame")] == [16, 16, 17, 4]
    assert set(manifest["sources"]) == set(SOURCES)
    assert manifest["sources"]["text"]["train"]["documents"] == 10
    assert manifest["sources"]["text"]["heldout"]["documents"] == 1
    # long.mp4 40 + 8, silent.avi 22 + 8, short.mp4 held out whole; four images of which one is held out.
    assert manifest["frames"] == {"train": 40 + 22 + 3, "heldout": 8 + 8 + 6 + 1}
    assert manifest["longest_text"]["video"] == {"tokens": len("A grey ramp."), "name": "lines.jsonl:1"}
    assert manifest["broken"] == []
    assert sorted(path.name for path in data_dir.iterdir()) == [
        "data.json",
        "documents",
        "frames",
        "prepare.json",
    ]


def test_a_document_has_its_parts(data_dir):
    films = datasets.documents(data_dir, "video", "train")
    parts = next(film.parts() for film in films if "caption" in film.names)
    assert load_tokenizer(data_dir).decode(parts["caption"]) == "A grey ramp."
    frames = parts["vision"].reshape(40, 5)
    assert (frames[:-1, -1] == 16).all() and frames[-1, -1] == 17
    assert np.abs(frames[:, :4] - (5 * np.arange(40) // 16)[:, None]).max() <= 1
    chat = datasets.documents(data_dir, "chat", "train")[0]
    assert chat.names == ("question", "assistant", "answer", "vision")
    assert chat.fields == ("[question+vision+assistant],answer",)


def test_the_heldout_text_is_in_no_training_document(data_dir):
    train, heldout = (datasets.documents(data_dir, "text", split) for split in ("train", "heldout"))
    assert heldout[0].tokens.tolist() not in [one.tokens.tolist() for one in train]


def test_broken_things_are_named_and_the_others_go_on(
    broken_folder, data_dir, options, tmp_path, broken_lines
):
    done = prepare(**options(broken_folder, tmp_path / "out", vqgan="fake"))
    reasons = dict(done["broken"])
    assert "cannot be decoded" in reasons["videos/broken.mp4"]
    assert "cannot be decoded" in reasons["images/broken.png"]
    assert len(done["broken"]) == len(broken_lines) + 4
    assert (
        done["sources"] == load_manifest(data_dir)["sources"]
        and done["frames"] == load_manifest(data_dir)["frames"]
    )


def test_the_vqgan_may_come_later(folder, data_dir, options, tmp_path):
    first = prepare(**options(folder, tmp_path / "out"))
    assert set(first["sources"]) == {"text", "sums"} and first["codes"] is None
    assert prepare(**options(folder, tmp_path / "out", vqgan="fake"))["codes"] == 16
    assert everything(tmp_path / "out") == everything(data_dir)


@pytest.mark.parametrize(
    ("module", "function", "call"),
    [
        (media, "read_video", 2),
        (datasets, "write_frames", 1),
        (datasets, "write_documents", 1),
        (media, "load_codes", 3),
        (datasets, "write_documents", 4),
    ],
)
def test_an_interrupted_run_goes_on(folder, data_dir, options, tmp_path, monkeypatch, module, function, call):
    original, calls, out = getattr(module, function), [], tmp_path / "out"

    def interrupted(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **keywords)

    monkeypatch.setattr(module, function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(**options(folder, out, vqgan="fake"))
    assert not (out / "data.json").exists()
    before = len(calls) - 1
    prepare(**options(folder, out, vqgan="fake"))
    if function in ("read_video", "write_documents"):
        whole = {"read_video": 3, "write_documents": len(SOURCES)}[function]
        assert len(calls) - 1 == whole, "what was finished is not done again"
        assert before == call - 1
    assert everything(out) == everything(data_dir)
    assert (out / "prepare.json").read_bytes() == (data_dir / "prepare.json").read_bytes()
    assert not (out / "partial").exists()


def test_frames_are_encoded_once(folder, options, tmp_path):
    seen = []

    def load_counting_encoder(vqgan):
        encode, codes = options(folder, tmp_path)["load_encoder"](vqgan)

        def count(frames):
            if len(seen) == 3:
                seen.append("stop")
                raise KeyboardInterrupt
            seen.append(len(frames))
            return encode(frames)

        return count, codes

    arguments = options(folder, tmp_path / "out", vqgan="fake", load_encoder=load_counting_encoder)
    with pytest.raises(KeyboardInterrupt):
        prepare(**arguments)
    done = prepare(**arguments)
    seen.remove("stop")
    assert sum(seen) == sum(done["frames"].values())


def test_a_finished_folder_is_left_alone(folder, data_dir, options, monkeypatch):
    monkeypatch.setattr(media, "store_frames", None)
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    for vqgan in ("fake", None):
        assert prepare(**options(folder, data_dir, vqgan=vqgan)) == load_manifest(data_dir)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 2}, "fps: .* was made with 0, not 2; choose another --output"),
        ({"resolution": 16}, "resolution: .* was made with 8, not 16"),
        ({"tokenizer": "train"}, "tokenizer: .* was made with 'bytes', not 'train'"),
        ({"heldout": 0.2}, "heldout: "),
        ({"max_frames": 3}, "max_frames: "),
        ({"seed": 1}, "seed: "),
        ({"vqgan": "other"}, "vqgan: .* was made with '.*fake', not '.*other'"),
    ],
)
def test_other_settings_for_the_same_folder_are_refused(folder, data_dir, options, changes, message):
    with pytest.raises(UserError, match=message):
        prepare(**options(folder, data_dir, **changes))


def test_input_that_changed_is_refused(folder, options, tmp_path):
    copy = tmp_path / "in"
    shutil.copytree(folder, copy)
    prepare(**options(copy, tmp_path / "out"))
    copy = copy.rename(tmp_path / "moved")
    prepare(**options(copy, tmp_path / "out"))
    (copy / "more.txt").write_text("more")
    with pytest.raises(UserError, match="input: the files of .* are not those that"):
        prepare(**options(copy, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 0}, "resolution: 0"),
        ({"fps": -1}, "fps: -1"),
        ({"heldout": 0.9}, "heldout: 0.9"),
        ({"tokenizer": "words"}, "tokenizer: words is neither bytes, train nor a file"),
        ({"tokenizer": "train", "vocab_size": 30_000}, "vocab_size: 30000 does not suit"),
        ({"input": "/does/not/exist"}, "input: /does/not/exist is not a folder"),
    ],
)
def test_settings_without_sense_are_refused_before_anything_is_written(
    folder, options, tmp_path, changes, message
):
    with pytest.raises(UserError, match=message):
        prepare(**options(folder, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_output_that_belongs_to_others_or_lies_in_the_input_is_refused(folder, options, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="output: .* was not made by lwm.prepare"):
        prepare(**options(folder, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="output: .* lies in the input folder"):
        prepare(**options(folder, folder / "out"))
    with pytest.raises(UserError, match="output: .*thesis.tex/out cannot be written"):
        prepare(**options(folder, tmp_path / "thesis.tex" / "out"))


@pytest.mark.parametrize(
    "content", [{}, {"a.mp4": b"no film"}, {"a.txt": b" "}, {"a.pdf": b"x"}, {"a.jsonl": b"{"}]
)
def test_a_folder_with_nothing_usable_is_refused_and_nothing_is_left(options, tmp_path, content):
    (tmp_path / "in").mkdir()
    for name, data in content.items():
        (tmp_path / "in" / name).write_bytes(data)
    for tokenizer in ("bytes", "train"):
        with pytest.raises(UserError, match="input: .* has no usable video, image"):
            prepare(**options(tmp_path / "in", tmp_path / "out", tokenizer=tokenizer))
        assert not (tmp_path / "out").exists()


def test_captions_that_are_too_long_are_named(folder, options, tmp_path):
    done = prepare(**options(folder, tmp_path / "out", vqgan="fake", max_caption=11))
    assert ["lines.jsonl:1", "has 12 tokens of text, more than max_caption=11"] in done["broken"]
    assert done["longest_text"]["image"] == {"tokens": 5, "name": "lines.jsonl:3"}
    assert done["sources"]["video"]["train"]["documents"] == 1, "silent.avi"


def test_films_alone_need_no_tokenizer_to_be_trained(folder, options, tmp_path, write_video, grey):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", [grey(9)] * 20)
    done = prepare(**options(tmp_path / "in", tmp_path / "out", tokenizer="train", vqgan="fake"))
    assert done["tokenizer"] == "bytes" and load_tokenizer(tmp_path / "out").vocab_size == 259
    assert done["sources"]["video"]["train"] == {"documents": 1, "tokens": 12 * 5, "bytes": 0}


def test_a_trained_tokenizer_never_sees_heldout_text(options, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": "seen words " * 40, "split": "train"}) for _ in range(3))
        + "\n"
        + json.dumps({"text": "zyzzyva " * 400, "split": "heldout"})
    )
    prepare(**options(tmp_path / "in", tmp_path / "out", tokenizer="train", vocab_size=285))
    tokenizer = load_tokenizer(tmp_path / "out")
    assert len(tokenizer.encode("zyzzyva")) == len("zyzzyva") and len(tokenizer.encode("seen words")) < 6
    assert load_manifest(tmp_path / "out")["tokenizer"] == "sentencepiece"


def test_a_full_disk_is_one_clear_line(tmp_path):
    for error in (
        OSError(28, "No space left on device"),
        RuntimeError("write() failed: No space left on device; x"),
    ):
        with (
            pytest.raises(
                UserError, match="out cannot be written .no space left.; mend that and run the same"
            ),
            writing_to(tmp_path / "out"),
        ):
            raise error
    for error in (
        RuntimeError("something else"),
        FileNotFoundError(2, "No such file", "/elsewhere/film.mp4"),
    ):
        with pytest.raises(type(error)), writing_to(tmp_path / "out"):
            raise error


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_views_add_crops_of_what_is_trained_on_and_of_nothing_else(data_dir, folder, options, tmp_path):
    prepare(**options(folder, tmp_path / "data", views=3, vqgan="fake"))
    viewed, plain = everything(tmp_path / "data"), everything(data_dir)
    assert viewed["heldout"] == plain["heldout"]
    for source in SOURCES:
        assert viewed[source, "heldout"] == plain[source, "heldout"]
        grown = 3 if plain[source, "train"] and any(plain[source, "train"][0][2]) else 1
        assert len(viewed[source, "train"]) == grown * len(plain[source, "train"])
    assert len(viewed["train"]) == 3 * len(plain["train"]) and set(plain["train"]) < set(viewed["train"])
    prepare(**options(folder, tmp_path / "again", views=3, vqgan="fake"))
    assert everything(tmp_path / "again") == viewed
