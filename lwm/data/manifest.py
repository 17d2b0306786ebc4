"""The two JSON files at the top of a data folder.

data.json      what the folder holds, written last: a folder without it is not finished
prepare.json   what was asked of `python -m lwm.prepare`, written first, and what it found so far
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

from etils import epath

from lwm.errors import UserError
from lwm.json_text import check_fields, read_block
from lwm.limits import COUNT, SIZE

MANIFEST, RECORD = "data.json", "prepare.json"
_FIX = "make the folder again"


@contextlib.contextmanager
def writing_to(output: epath.PathLike) -> Iterator[None]:
    """Turns a disk that is full, read-only or gone into a UserError that names `output`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # ArrayRecord raises RuntimeError when its files fail; a write to an open file fails without a name.
        if isinstance(error, OSError):
            ours = error.filename is None or str(error.filename).startswith(str(output))
        else:
            ours = "write() failed" in str(error)
        if not ours:
            raise
        full = "No space left on device" in str(error)
        reason = "no space left" if full else str(error).splitlines()[0]
        raise UserError(
            f"output: {output} cannot be written ({reason}); mend that and run the same command again"
        ) from error


@contextlib.contextmanager
def making(output: epath.Path) -> Iterator[epath.Path]:
    """A folder to fill, OUTPUT.part, that becomes `output` at the end if nothing is raised; see `writing_to`.

    What an earlier attempt left is thrown away, and so is "partial", in which data sets are begun.
    """
    draft = output.parent / f"{output.name}.part"
    with writing_to(output):
        if draft.exists():
            draft.rmtree()
        draft.mkdir(parents=True)
        yield draft
        if (draft / "partial").exists():
            (draft / "partial").rmtree()
        if output.exists():
            output.rmdir()  # it is empty
        draft.rename(output)


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Writes `content` to `path` whole or not at all."""
    path = epath.Path(path)
    draft = path.parent / (path.name + ".part")
    draft.write_bytes(content)
    draft.replace(path)


def write_json(path: epath.PathLike, value: dict) -> None:
    """Writes `value` to `path` whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def finished(
    output: epath.Path, name: str, load: Callable[[epath.Path], dict], settings: Mapping
) -> dict | None:
    """What the file `name` of a finished folder says; None if there is no folder yet, or an empty one.

    load: reads that file, which has what was asked for under "settings".

    Raises:
      UserError: `output` is something else, or was made with other settings.
    """
    if not (output / name).exists():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"output: {output} exists and holds no {name}; choose another folder")
        return None
    done = load(output)
    asked = done.get("settings")
    for field, value in settings.items():
        if (before := asked.get(field) if isinstance(asked, dict) else None) != value:
            raise UserError(
                f"{field}: {output} was made with {before!r}, not {value!r}; choose another --output"
            )
    return done


def load_manifest(data_dir: epath.PathLike) -> dict:
    """Returns data.json.

    Its keys: tokenizer, vocab_size, bos, eos, vision_start, vision_end (ids), resolution, fps, codes,
    codes_per_frame, eof, eov, vqgan (these five null without a VQGAN), sources ({name: {split: {documents,
    tokens, bytes}}}), longest_text ({name: {tokens, name}}: the longest text beside a picture), frames
    ({split: count}), broken ([name, reason]).

    Raises UserError if `data_dir` is not a finished data folder, or if its data.json is none of ours.
    """
    path = epath.Path(data_dir) / MANIFEST
    if not path.exists():
        raise UserError(
            f"data: {data_dir} has no {MANIFEST}; make it by python -m lwm.prepare --output={data_dir}"
        )
    manifest = read_block(path, fix=_FIX)
    needs = _FIELDS if manifest.get("sources") else ("tokenizer",)
    check_fields(path, manifest, _FIELDS | _OF_CODES | _OTHERS, needs=needs)
    if manifest.get("sources") and (gone := [name for name in _OF_CODES if name not in manifest]):
        raise UserError(f"{path}: {gone[0]}: missing; {_FIX}")
    for source, longest in manifest.get("longest_text", {}).items():
        kinds = {"tokens": Annotated[int, COUNT], "name": str}
        check_fields(path, longest, kinds, needs=kinds, within=f"longest_text.{source}.")
    return manifest


def open_record(output: epath.Path, settings: dict) -> dict:
    """Returns the record {"settings", "media", "broken"} of the folder `output`, which may not exist yet.

    Raises UserError if the folder belongs to something else or to other settings. A VQGAN may come later: its
    entry may change from null, and a run without one accepts a folder that has one. The input may have moved.
    """
    path = output / RECORD
    if not path.exists():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"output: {output} exists and was not made by lwm.prepare; choose another folder")
        return {"settings": settings, "media": None, "broken": []}
    record = load_record(output)
    for name, value in settings.items():
        before = record["settings"].get(name)
        if before == value or name == "input" or (name == "vqgan" and not (before and value)):
            continue
        if name == "files":
            raise UserError(
                f"input: the files of {settings['input']} are not those that {output} was made from "
                f"({record['settings'].get('input')}); restore them or choose another --output"
            )
        raise UserError(f"{name}: {output} was made with {before!r}, not {value!r}; choose another --output")
    record["settings"]["vqgan"] = settings["vqgan"] or record["settings"].get("vqgan")
    return record


def load_record(output: epath.PathLike) -> dict:
    """Returns what prepare.json says. Raises UserError if the file is none of ours."""
    path = epath.Path(output) / RECORD
    record = read_block(path, fix=_FIX)
    check_fields(path, record, _RECORDED, needs=("settings", "broken"))
    return record | {"media": record.get("media")}


_Ids = tuple[Annotated[int, COUNT], ...]
_Counts = dict[str, Annotated[int, COUNT]]
# What batches are made of; a folder of another kind has some of it. Null without a VQGAN: _OF_CODES.
_FIELDS = {
    "tokenizer": str,
    "vocab_size": Annotated[int, SIZE],
    "bos": Annotated[int, COUNT],
    "eos": Annotated[int, COUNT],
    "vision_start": _Ids,
    "vision_end": _Ids,
    "resolution": Annotated[int, COUNT],
    "sources": dict[str, dict[str, _Counts]],
    "longest_text": dict[str, dict],
}
_OF_CODES = {
    "fps": Annotated[float, COUNT],
    "codes": Annotated[int, SIZE],
    "codes_per_frame": Annotated[int, SIZE],
    "eof": Annotated[int, COUNT],
    "eov": Annotated[int, COUNT],
    "vqgan": str,
}
_OTHERS = {"frames": _Counts, "pages": dict[str, dict[str, _Counts]]}
_RECORDED = {"settings": dict, "media": dict[str, _Counts], "broken": tuple}
