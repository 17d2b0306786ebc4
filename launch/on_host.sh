#!/usr/bin/env bash
# Runs a command on one host of a pod with the flags of libtpu for its purpose, see env.sh:
#   launch/on_host.sh PURPOSE COMMAND…
# LIBTPU_INIT_ARGS of the environment come last and so win. With a .venv here, `python` is its Python.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
own=$(libtpu_flags "${1:-}")
export LIBTPU_INIT_ARGS="${own//$'\n'/ }${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"
export PATH=$PWD/.venv/bin:$PATH
shift
exec "$@"
