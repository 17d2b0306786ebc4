"""The flag --config of the verbs that take an experiment, and one line for whatever is wrong in its file."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

from lwm.errors import UserError


def define_config() -> Any:
    """Defines --config and with it --config.FIELD; returns what holds the value.

    Unlocked, because a config need not write down the fields that keep their defaults; `schema` knows them
    all.
    """
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Experiment, FILE.py or FILE.py:ARGUMENT, see experiments/.",
        lock_config=False,
        accept_new_attributes=True,
    )


def read_config(flag: Any) -> dict:
    """The config as nested dicts.

    Raises:
      UserError: there is none, or its file cannot be read.
    """
    if flag.value is None:
        raise UserError("--config: None is no file; give one, for example --config=experiments/quickstart.py")
    try:
        # What stands for a file that is not there raises OSError as soon as it is asked anything.
        if not hasattr(flag.value, "to_dict"):
            found = type(flag.value).__name__
            raise UserError(
                f"--config: get_config returns a {found}; let it return an ml_collections.ConfigDict"
            )
        return _plain(flag.value)
    except OSError as error:
        raise UserError(
            f"--config: {_last_line(error)}; give the path of a Python file with get_config"
        ) from error


@contextlib.contextmanager
def parsing_errors() -> Iterator[None]:
    """Ends the process with one line and exit code 2 if the config file fails while flags are parsed."""
    try:
        yield
    except Exception as error:
        if flags.FLAGS.is_parsed():
            raise
        print(f"error: {_unparsed(error)}", file=sys.stderr)
        sys.exit(2)


def _plain(value: Any) -> Any:
    """Dicts for blocks, values for references to them; None for one that has to be given and is not."""
    if isinstance(value, config_dict.ConfigDict):
        return {name: _plain(item) for name, item in value.items(preserve_field_references=True)}
    if not isinstance(value, config_dict.FieldReference):
        return value
    try:
        return value.get()
    except config_dict.RequiredValueError:
        return None


def _last_line(error: BaseException) -> str:
    return " ".join(str(error).strip().splitlines()[-1:]).strip()


def _unparsed(error: Exception) -> str:
    """What went wrong in parsing the flags, when the config file runs and its overrides are looked up."""
    if isinstance(error, KeyError) and error.args:
        name, *hint = str(error.args[0]).splitlines()
        for argument in sys.argv[1:]:
            if argument.startswith("--config.") and name.strip("'") in argument.partition("=")[0].split("."):
                return f"{argument}: the config has no {name}; {' '.join(hint) or 'correct the name'}"
    return f"--config: {type(error).__name__}: {_last_line(error)}; correct the file"
