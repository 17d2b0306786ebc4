# shellcheck shell=bash
# Sourced by the scripts beside it: goes to the root of the repository and offers `environment [EXTRA]`,
# `tpu_environment` and `libtpu_flags PURPOSE`.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Prints the first Python on PATH that is new enough and can make virtual environments.
find_python() {
  local name
  for name in python3.11 python3 python3.12 python3.13 python; do
    if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  echo "error: python: none on PATH is 3.11 or newer with venv (python3 is $(python3 --version 2>&1));" \
    "install one, on Debian: apt install python3.11 python3.11-venv" >&2
  exit 2
}

# Puts this package, with EXTRA of setup.py if given, into .venv; does nothing if it is there already.
environment() {
  local extra=${1:+[$1]} stamp python
  stamp=.venv/installed${1:+-$1}-$(cat setup.py launch/constraints.txt | cksum | cut -d ' ' -f 1)
  if [[ ! -e $stamp ]]; then
    if [[ ! -x .venv/bin/python ]]; then
      python=$(find_python)
      "$python" -m venv .venv
    fi
    .venv/bin/python -m pip install -qq --disable-pip-version-check -e ".$extra" -c launch/constraints.txt
    touch "$stamp"
  fi
}

# The environment of a TPU's host, where Ubuntu 22.04 has Python 3.10 only.
tpu_environment() {
  if ! (find_python) >/dev/null 2>&1; then # in a shell of its own, which it may leave
    sudo apt-get update -qq
    sudo apt-get install -qq python3.11 python3.11-venv
  fi
  environment tpu
}

# Prints the LIBTPU_INIT_ARGS of a purpose, one a line:
#   train       one slice, devices joined by ICI
#   multislice  slices joined by a data-centre network: as train, and what hides its slowness
#   debug       the first NaN stops the run where it arises, in every operation; slow
#   none        what libtpu does by itself
# They were chosen from what Google's own trainers use; none of them was timed by us.
libtpu_flags() {
  local flags=()
  case $1 in
    none) ;;
    train | multislice)
      flags+=(
        --xla_enable_async_all_gather=true # FSDP's parameters arrive while the layers before them compute
        --xla_enable_async_collective_permute=true # the ring's keys and values travel during a hop's attention
        --xla_tpu_enable_async_collective_fusion=true # collectives run inside operations that do not need them
        --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true # all-gathers among them
        --xla_tpu_enable_async_collective_fusion_multiple_steps=true # one collective over several operations
        --xla_tpu_overlap_compute_collective_tc=true # multiplications go on while the same core sends
      )
      ;;
    debug)
      flags+=(--xla_tpu_detect_nan=true) # names the operation that made it
      ;;
    *)
      echo "error: purpose: '$1' is not known; choose train, multislice, debug or none" >&2
      return 2
      ;;
  esac
  if [[ $1 == multislice ]]; then
    flags+=(
      --xla_tpu_enable_data_parallel_all_reduce_opt=true # gradients cross slices while backward goes on
      --xla_tpu_data_parallel_opt_different_sized_ops=true # also where layers are not all of one size
    )
  fi
  if ((${#flags[@]})); then printf '%s\n' "${flags[@]}"; fi
}
