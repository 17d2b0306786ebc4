#!/usr/bin/env bash
# Installs what the tests need into .venv, then runs the linter and the tests.
#   launch/test.sh            the tests of every day
#   launch/test.sh --slow     those that take minutes, too
#   launch/test.sh ARGUMENT…  hands its arguments to pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [[ ${1:-} == --slow ]]; then
  shift
  set -- -m "slow or not slow" "$@"
fi
extras='test'
if [[ $(uname -sm) == "Linux x86_64" ]]; then
  extras=test,tpu # the TPU compiler runs there without a TPU
fi
environment "$extras"
.venv/bin/ruff check .
exec .venv/bin/python -m pytest -n 2 -q "$@" </dev/null
