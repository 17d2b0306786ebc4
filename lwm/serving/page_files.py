"""A page of text and pictures as files: the pictures, and Markdown and HTML that show them."""

import html
import itertools
from collections.abc import Sequence

import numpy as np
from etils import epath

from lwm.generation.films import picture
from lwm.training.folders import first_free

HTML, MARKDOWN = "index.html", "page.md"
_SIDE = 256  # pixels to which small pictures are enlarged, about
_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ max-width: 40rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 serif; }}
p {{ white-space: pre-wrap; }}
img {{ image-rendering: pixelated; }}
.given {{ color: #666; }}
.given img {{ outline: 1px solid #bbb; }}
footer {{ color: #666; font-size: 0.8rem; border-top: 1px solid #bbb; }}
</style>
"""


def files_of(parts: Sequence[str | np.ndarray], *, given: int, title: str, about: str) -> dict[str, bytes]:
    """Files by name, first the pictures.

    Args:
      parts: texts, and pictures uint8 [R, R, 3], in order.
      given: so many of them, the first ones, are the prompt; the HTML shows which.
      title, about: of the HTML; about: a line below the page.
    """
    files, body = {}, []
    for number, part in enumerate(parts):
        kind = "given" if number < given else "made"
        if isinstance(part, str):
            body.append(f'<p class="{kind}">{html.escape(part)}</p>')
            continue
        name = f"picture_{len(files) + 1}.png"
        files[name] = picture(part[None], ".png", scale=max(1, _SIDE // len(part)))
        body.append(f'<figure class="{kind}"><img src="{name}" alt="{kind} picture"></figure>')
    foot = f"<footer>{html.escape(about)}</footer>"
    page = "\n".join([_HEAD.format(title=html.escape(title)), *body, foot, ""])
    return files | {MARKDOWN: as_markdown(parts).encode(), HTML: page.encode()}


def as_markdown(parts: Sequence[str | np.ndarray], *, before: int = 0) -> str:
    """The parts as text that shows the pictures of `files_of`; so many pictures come before them."""
    text = ""
    for part in parts:
        before += not isinstance(part, str)
        text += part if isinstance(part, str) else f"\n\n![](picture_{before}.png)\n\n"
    return text


def free_folder(workdir: epath.PathLike) -> str:
    """WORKDIR/page, or the first of page_2, page_3, … that is not there."""
    names = itertools.chain(["page"], (f"page_{number}" for number in itertools.count(2)))
    return str(first_free(workdir, names))
