"""What a run left in its workdir, as plain values: stages, metrics, numbers, samples."""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath
from PIL import Image

from lwm.errors import UserError
from lwm.evaluation import charts

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
    rows = read_rows(workdir / "metrics.jsonl")
    unit = "images" if any("images" in row for row in rows) else "tokens"
    return {
        "path": str(workdir),
        "config": config,
        "config_text": json.dumps(config, indent=2, ensure_ascii=False),
        "unit": unit,
        "rows": rows,
        "stages": list(stages(config.get("stages", {}), rows, unit)),
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
        seen = max((row[unit] for row in own), default=seen)
        seconds = max((row["seconds"] for row in own), default=seconds)
        yield {
            "name": name,
            "length": charts.length(block["context_length"]) if block.get("context_length") else "",
            "theta": charts.count(block["rope_theta"]) if block.get("context_length") else "",
            "mesh": {axis: size for axis, size in block.get("mesh", {}).items() if size != 1},
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
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: not JSON ({error}); remove it and run the verb that made it again"
        ) from error


def read_rows(path: epath.Path) -> list[dict]:
    """The rows of a JSON-lines file, [] if there is none; a last line that was cut short does not count.

    Raises:
        UserError: another line is not JSON.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is not JSON ({error}); remove that line") from error
    return rows
