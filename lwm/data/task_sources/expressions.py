"""Expressions of Python's standard library and their trees: a parsing task whose answers are exact.

    os.path.join(tcldir, 'init.tcl')  ->  (Call (Attribute (Attribute Name)) Name str)

A tree says the kind of each node of `ast`, in the order of its fields, and the type of each constant; names
and values are left out, as words are in the linearised trees of Vinyals et al. (1412.7449, section 3.1).
"""

import ast
import hashlib
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lwm import bounds
from lwm.data.task_records import Record
from lwm.data.task_sources.reading import Reading
from lwm.errors import UserError

SHORTEST, LONGEST = 8, 60  # characters of an expression
MOST_ALIKE = 200  # expressions with the same tree
_NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})


def read_expressions(reading: Reading) -> Iterator[Record]:
    """Yields source (an expression as `ast` writes it) and target (its tree); the base is the file.

    They are those that statements are made of, without bare names and constants; each is there once.
    """
    root = Path(reading.library or sysconfig.get_path("stdlib"))
    names = (path.relative_to(root) for path in root.rglob("*.py"))
    names = sorted(name.as_posix() for name in names if not _NOT_THE_LIBRARY & set(name.parts))
    if not names:
        raise UserError(f"sources: {root} has no .py files of the standard library; give another folder")
    seen, alike = set(), Counter()
    # In the order of a hash, so that the first expressions of a tree come from all over the library.
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        try:
            found = list(_sources_and_trees((root / name).read_bytes()))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reading.damaged(UserError(f"sources: {root / name} is not Python ({error}); pass --skip_damaged"))
            continue
        for text, tree in found:
            if text in seen:
                continue
            seen.add(text)
            alike[tree] += 1
            if alike[tree] <= MOST_ALIKE:
                yield Record(key=f"expression:{len(seen)}", base=f"file:{name}", source=text, target=tree)


def linearise(node: ast.AST) -> str:
    """Returns a tree in brackets: "(Kind child child)", a node without children without them."""
    if isinstance(node, ast.Constant):
        return type(node.value).__name__
    children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context)]
    kind = type(node).__name__
    return f"({' '.join((kind, *map(linearise, children)))})" if children else kind


def _sources_and_trees(content: bytes) -> Iterator[tuple[str, str]]:
    """Expressions of a file that may be samples, as they are written, and their trees."""
    if len(content) > bounds.EXPRESSIONS:
        raise ValueError(f"{len(content)} bytes are more than {bounds.EXPRESSIONS}")
    with warnings.catch_warnings(action="ignore"):  # about code that is not ours
        module = ast.parse(content)
    for expression in _expressions(module):
        text = ast.unparse(expression)
        if "\n" not in text and SHORTEST <= len(text) <= LONGEST and text.isascii():
            yield text, linearise(expression)


def _expressions(module: ast.Module) -> Iterator[ast.expr]:
    for statement in ast.walk(module):
        if isinstance(statement, ast.stmt):
            for child in ast.iter_child_nodes(statement):
                if isinstance(child, ast.expr) and not isinstance(child, ast.Name | ast.Constant):
                    yield child
