"""Tables of runs: what is read, and that every bad cell is one line with its place."""

import numpy as np
import pytest

from lwm.errors import UserError
from lwm.scaling.runs_table import make_runs, read_columns, read_runs

GOOD = "parameters,tokens,loss\n1e4,2e5,3.5\n1e5,4e5,3.1\n"


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "runs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_runs_are_read_by_the_names_of_their_columns(table):
    runs = read_runs(table(GOOD))
    assert runs.parameters.tolist() == [1e4, 1e5] and runs.tokens.tolist() == [[2e5], [4e5]]
    assert runs.loss.tolist() == [3.5, 3.1] and (runs.size, runs.modalities, runs.target) == (2, 1, 0)
    assert runs.take(np.array([1, 1])).loss.tolist() == [3.1, 3.1]


def test_modalities_rows_and_targets_are_chosen(table):
    text = "P,text,image,bpb,kind\n10,5,0,2,a\n10,0,7,,b\n20,6,8,3,a\n"
    runs = read_runs(
        table(text), parameters="P", tokens=("text", "image"), loss="bpb", target=0, only={"kind": "a"}
    )
    assert runs.tokens.tolist() == [[5, 0], [6, 8]] and runs.loss.tolist() == [2, 3]


BAD = {
    "missing": ("parameters,loss\n1,2\n", "no column 'tokens'; its columns are parameters, loss"),
    "empty file": ("", "no column 'parameters', 'tokens', 'loss'; its columns are none"),
    "no rows": ("parameters,tokens,loss\n", "no rows; give a CSV"),
    "empty cell": (GOOD + "1,,3\n", "line 4: tokens is ''; give a number"),
    "short row": (GOOD + "1,2\n", "line 4: loss is None; give a number"),
    "word": (GOOD + "1,many,3\n", "line 4: tokens is 'many'; give a number"),
    "nan": (GOOD + "1,2,nan\n", "line 4: loss is nan; give a number of 0 or more"),
    "infinite": (GOOD + "inf,2,3\n", "line 4: parameters is inf;"),
    "negative": (GOOD + "1,-2,3\n", "line 4: tokens is -2;"),
    "no loss": (GOOD + "1,2,0\n", "loss: 0 in run 3 of 3; must be above 0"),
    "no size": (GOOD + "0,2,1\n", "parameters: 0 in run 3 of 3; must be above 0"),
    "no tokens": (GOOD + "1,0,1\n", "tokens: 0 in run 3 of 3; must be 0 or more, and above 0"),
    "no text": (b"\xff\xfe\x00\x01\n", "not a CSV in UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_one_line(table, name):
    text, says = BAD[name]
    path = table(text)
    with pytest.raises(UserError) as error:
        read_runs(path)
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_rows_that_nobody_wants_may_be_bad_and_none_wanted_is_said(table):
    path = table("x,kind\nnan,a\n1,b\n")
    assert read_columns(path, ["x"], only={"kind": "b"})["x"].tolist() == [1]
    with pytest.raises(UserError, match="no rows with kind = c"):
        read_columns(path, ["x"], only={"kind": "c"})
    with pytest.raises(UserError, match="no column 'sort'"):
        read_columns(path, ["x"], only={"sort": "c"})


def test_no_such_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: No such file or directory; give a CSV of runs"):
        read_runs(tmp_path / "none.csv")
    with pytest.raises(UserError, match="Is a directory"):
        read_runs(tmp_path)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="2 parameters, 2 tokens, 1 losses"):
        make_runs([1, 2], [1, 2], [1])
    with pytest.raises(UserError, match="target: 1; tokens have the columns 0 to 0"):
        make_runs([1], [1], [1], target=1)
    assert np.isnan(make_runs([1, 2], [1, 2]).loss).all()
