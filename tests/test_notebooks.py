"""Every notebook runs from top to bottom where its rows are there."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    read = re.findall(r"\.\./(experiments/results/\w+\.\w+)", path.read_text())
    if missing := [name for name in read if not (FOLDER.parent / name).exists()]:
        pytest.skip(f"rows not made yet: {', '.join(missing)}")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": FOLDER}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
