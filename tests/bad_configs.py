"""Bad configs by the hundred: every config of experiments/, with one thing wrong, must be refused by name.

    python tests/bad_configs.py                all of them: a line for each config, exit code 1 if one passes
    python tests/bad_configs.py --share=40     every fortieth

What is wrong is not thought up here: it follows from the types, limits and rules of the fields, see
config_mutations.py. JAX cannot be imported in this process, so that nothing can have been compiled, and the
working directory is an empty one that has to stay so.
"""

import argparse
import collections
import importlib.util
import operator
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The first argument of a config, if it has several: where its module keeps the values.
ARGUMENTS = {
    "clip_questions": "ARMS",
    "context_extension": "ARMS",
    "lv_xattn_families": "ROWS",
    "multimodel": "multimodel_arms.ARMS",
    "packing_ablation": "ARMS",
    "quickstart": "PARTS",
    "text_to_image": "PARTS",
    "vqgan": "PARTS",
}
LEAST = 200


def configs() -> Iterator[tuple[str, dict]]:
    """(file and argument, config) of everything in experiments/ that defines one, quicktests included."""
    for path in sorted((ROOT / "experiments").glob("*.py")):
        if "\ndef get_config(" not in path.read_text():
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        arguments = operator.attrgetter(ARGUMENTS[path.stem])(module) if path.stem in ARGUMENTS else [""]
        for chosen in arguments:
            for argument in (chosen, f"{chosen},quicktest".lstrip(",")):
                yield f"{path.name}:{argument}".rstrip(":"), module.get_config(argument).to_dict()


def complaint(bad: dict, names: tuple[str, ...]) -> str:
    """What is wrong with how a bad config is refused; "" if it is refused as it should be."""
    from lwm.errors import UserError
    from lwm.training.validation import validate

    try:
        validate(bad)
    except UserError as error:
        lines = str(error).splitlines()
        if not all(line.startswith("config") and ": " in line and "; " in line for line in lines):
            return f"says {lines}"
        named = any(line.startswith(f"{name}{mark}") for line in lines for name in names for mark in ":.[")
        return "" if named else f"names others: {lines}"
    except Exception:
        return traceback.format_exc()
    return "passes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--share", type=int, default=1, help="every so many of each config")
    share, failures = parser.parse_args().share, 0
    sys.modules["jax"] = None
    sys.path.insert(0, str(ROOT))
    from config_mutations import mutated, mutations

    empty = tempfile.TemporaryDirectory()
    os.chdir(empty.name)
    for name, config in configs():
        every, counts, start = list(mutations(config)), collections.Counter(), time.process_time()
        assert len(every) >= LEAST, f"{name}: {len(every)} bad configs are not {LEAST}"
        for mutation in every[::share]:
            counts[mutation.kind] += 1
            if why := complaint(mutated(config, mutation), mutation.names):
                failures += 1
                print(f"{name} with {'.'.join(mutation.path)} = {mutation.value!r} {why}")
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        cost = 1000 * (time.process_time() - start) / counts.total()
        print(f"{name}: {counts.total()} of {len(every)} ({told}), {cost:.1f} ms each", flush=True)
    if left := os.listdir("."):
        print(f"written: {left}")
    sys.exit(1 if failures or left else 0)


if __name__ == "__main__":
    main()
