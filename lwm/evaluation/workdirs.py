"""What a run left in its workdir, as plain values: stages, metrics, numbers, samples."""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from etils import epath
from PIL import Image

from lwm import json_text
from lwm.errors import UserError
from lwm.evaluation import charts
from lwm.json_text import check_fields
from lwm.limits import COUNT

_STAGE = {
    **{name: Annotated[int, COUNT] for name in ("steps", "context_length")},
    "rope_theta": Annotated[float, COUNT],
    "mesh": dict[str, int],
}
_ALWAYS = ("stage", "step", "seconds")
_ROW = {"stage": str, "step": Annotated[int, COUNT], "seconds": Annotated[float, COUNT]}
_ROW |= {name: Annotated[int, COUNT] for name in ("tokens", "images")}
_ROW |= {name: Annotated[float, COUNT] for name in ("tokens_per_second", "images_per_second")}
MEDIA = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".webp": "image/webp"}


def read_run(workdir: epath.Path, captions: Mapping[str, str]) -> dict[str, Any]:
    """What is known of one workdir: path, config, rows, unit, stages, numbers, samples.

    captions: of the samples, by file name.

    Raises:
        UserError: it has no config.json.
    """
    config = read_json(workdir / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"workdir: {workdir} has no config.json; give the --workdir of a python -m lwm.train")
    check_fields(workdir / "config.json", config, {"stages": dict[str, dict]})
    for name, block in (config.get("stages") or {}).items():
        check_fields(workdir / "config.json", block, _STAGE, needs=("steps",), within=f"stages.{name}.")
    rows = read_rows(workdir / "metrics.jsonl", _ROW)
    unit = "images" if any("images" in row for row in rows) else "tokens"
    return {
        "path": str(workdir),
        "config": config,
        "config_text": json.dumps(config, indent=2, ensure_ascii=False),
        "unit": unit,
        "rows": rows,
        "stages": list(stages(config.get("stages") or {}, rows, unit)),
        "numbers": read_rows(workdir / "evaluation.jsonl"),
        "samples": samples(workdir / "samples", captions),
    }


def stages(blocks: Mapping[str, Mapping], rows: Sequence[Mapping], unit: str) -> Iterator[dict]:
    """Of each stage that was planned: its settings, and what came of it; None where nothing did."""
    seen, seconds = 0, 0.0
    for name, block in blocks.items():
        own = [row for row in rows if row["stage"] == name]
        speeds = sorted(row[f"{unit}_per_second"] for row in own if row.get(f"{unit}_per_second"))
        before, before_seconds = seen, seconds
        seen = max((row.get(unit) or 0 for row in own), default=seen)
        seconds = max((row["seconds"] for row in own), default=seconds)
        yield {
            "name": name,
            "length": charts.length(block["context_length"]) if block.get("context_length") else "",
            "theta": charts.count(block.get("rope_theta") or 0) if block.get("context_length") else "",
            "mesh": {axis: size for axis, size in (block.get("mesh") or {}).items() if size != 1},
            "steps": block["steps"],
            "done": max((row["step"] for row in own), default=0),
            "start": before,
            "end": seen,
            "speed": speeds[len(speeds) // 2] if speeds else None,
            "seconds": seconds - before_seconds if own else None,
        }


def samples(folder: epath.Path, captions: Mapping[str, str]) -> list[dict]:
    """What stands in a samples folder: name, caption, text or data URI of a picture, and is it wide."""
    found = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        sample = {"name": path.stem.replace("_", " "), "text": "", "uri": ""}
        sample["caption"] = captions.get(path.name, "")
        if path.suffix == ".txt":
            found.append(sample | {"text": path.read_text(encoding="utf-8"), "wide": False})
        elif path.suffix in MEDIA:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                wide = image.width > 2 * image.height
            uri = f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(data).decode('ascii')}"
            found.append(sample | {"uri": uri, "wide": wide})
    return found


def read_json(path: epath.Path) -> Any:
    """The value in a JSON file; None if there is no such file.

    Raises:
        UserError: the file is not JSON.
    """
    if not path.exists():
        return None
    try:
        return json_text.read(path)
    except ValueError as error:
        raise UserError(
            f"{path}: not JSON ({error}); remove it and run the verb that made it again"
        ) from error


def read_rows(path: epath.Path, fields: Mapping[str, Any] = MappingProxyType({})) -> list[dict]:
    """The rows of a JSON-lines file, [] if there is none; a last line that was cut short does not count.

    fields: kinds of its fields, see `lwm.json_text.check_fields`; a stage, step and seconds must be there.

    Raises:
        UserError: another line is not JSON, or no such row.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json_text.loads(line) if line.strip() else None
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is not JSON ({error}); remove that line") from error
            break
        if row is None:
            continue
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is no block of fields; remove that line")
        check_fields(f"{path}: line {number}", row, fields, needs=_ALWAYS)
        rows.append(row)
    return rows
