"""Folders for what is made: new ones, so that nothing that is there is lost or mixed with it."""

from collections.abc import Iterable

from etils import epath

from lwm.errors import UserError


def check_new(field: str, path: epath.PathLike) -> None:
    """Raises UserError, which names the field, if the folder is a file or holds something."""
    path = epath.Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{field}: {path} is a file; give a folder in which nothing is")
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{field}: {path} exists already and holds files; give another folder")


def first_free(parent: epath.PathLike, names: Iterable[str]) -> epath.Path:
    """The first of the names, of which there are enough, that is not there."""
    return next(path for name in names if not (path := epath.Path(parent) / name).exists())
