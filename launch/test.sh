#!/usr/bin/env bash
# Installs what the tests need into .venv, then runs the linter and the tests.
#   launch/test.sh            the tests of every day, then every notebook from top to bottom
#   launch/test.sh --slow     those that take minutes, too; notebooks are among them
#   launch/test.sh ARGUMENT…  hands its arguments to pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

extras='test'
if [[ $(uname -sm) == "Linux x86_64" ]]; then
  extras=test,tpu # the TPU compiler runs there without a TPU
fi
environment "$extras"
.venv/bin/ruff check .
run=(.venv/bin/python -m pytest -n 2 -q)
case ${1:-} in
  --slow)
    shift
    "${run[@]}" -m "slow or not slow" "$@" </dev/null
    ;;
  "")
    "${run[@]}" </dev/null
    "${run[@]}" -m slow --durations=0 tests/test_notebooks.py </dev/null
    ;;
  *) "${run[@]}" "$@" </dev/null ;;
esac
