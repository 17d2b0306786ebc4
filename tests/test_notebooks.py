"""Every notebook opens with a badge, keeps its outputs and has a quick part; and runs from top to bottom.

They run behind the tests of every day: `launch/test.sh` asks for this file by name, with how long each took.
"""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)


@NOTEBOOKS
def test_notebook_opens_with_a_badge_keeps_its_outputs_and_has_a_quick_part(path):
    first, *cells = json.loads(path.read_text())["cells"]
    assert "".join(first["source"]).startswith("![")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] and cell["outputs"] for cell in code)
    words = [line.lower() for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"]]
    assert any(line.startswith("## quick: ") for line in words)
    assert cells[-1]["cell_type"] == "code"


@pytest.mark.slow
@NOTEBOOKS
def test_notebook_runs(path):
    import nbclient
    import nbformat

    read = re.findall(r"\.\./(experiments/results/\w+\.\w+)", path.read_text())
    if missing := [name for name in read if not (FOLDER.parent / name).exists()]:
        pytest.skip(f"rows not made yet: {', '.join(missing)}")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": FOLDER}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
