# Sourced by the scripts beside it: goes to the root of the repository and offers `environment [EXTRA]`.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

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
