"""The text after the colon in `--config=experiments/lwm_text.py:quicktest,init=runs/llama`.

Such an argument is for a choice that touches many fields at once; a single field is set by
`--config.name=value`. A config declares its arguments with their defaults, nothing else is accepted.
"""

from types import SimpleNamespace

FLAG_VALUES = {"true": True, "": True, "false": False}


def parse(argument: str | None, **defaults: str | bool) -> SimpleNamespace:
    """Reads "name=value,flag" into a namespace with the fields of `defaults`.

    A boolean needs no value (`quicktest`), and the first argument declared needs no name if it is a text:
    `quickstart.py:vqgan` means `part=vqgan`.

    Raises:
        ValueError: an argument not declared or given twice, or a boolean neither true nor false.
    """
    given: dict[str, str | bool] = {}
    for index, item in enumerate(filter(None, (argument or "").split(","))):
        name, equals, value = item.partition("=")
        if index == 0 and not equals and name not in defaults:
            name, value = next(iter(defaults)), item
        if name not in defaults or (isinstance(defaults[name], bool) and value.lower() not in FLAG_VALUES):
            raise ValueError(f"config argument {item!r}: not known; known are {_known(defaults)}")
        if name in given:
            raise ValueError(f"config argument {name!r}: given twice; keep one")
        given[name] = FLAG_VALUES[value.lower()] if isinstance(defaults[name], bool) else value
    return SimpleNamespace(**(defaults | given))


def _known(defaults: dict[str, str | bool]) -> str:
    return ", ".join(name if isinstance(value, bool) else f"{name}=…" for name, value in defaults.items())
