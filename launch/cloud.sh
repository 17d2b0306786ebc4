# shellcheck shell=bash
# Sourced by tpu_vm.sh and gke.sh: their flags, dry runs, and the code of this commit.
# The script sets `actions` and `usage`, in `value` its flags with their defaults, in `pattern` what they may be.

refuse() {
  echo "error: $1" >&2
  exit 2
}

actions='' usage=''
declare -A value pattern
declare -a command=()
readonly switch='no|yes'
action='' name=''
exec 3>&1 # where dry runs print, also inside $( )

# Reads ACTION NAME --FLAG=VALUE… -- COMMAND… into `action`, `name`, `value` and `command`.
read_flags() {
  local field
  value[dry_run]=no
  pattern[dry_run]=$switch
  action=${1:-}
  [[ " $actions " == *" $action "* && -n $action ]] || refuse "action: '$action' is not known; $usage"
  shift
  if [[ ${1:-} != -* ]]; then
    name=${1:-}
    shift || true
  fi
  while (($#)); do
    if [[ $1 == -- ]]; then
      shift
      command=("$@")
      return
    fi
    [[ $1 == --* ]] || refuse "argument: '$1' is not a flag; $usage"
    field=${1%%=*}
    field=${field#--}
    [[ -v "value[$field]" ]] || refuse "--$field: is not known; known are $(printf -- '--%s ' "${!value[@]}")"
    if [[ $1 == *=* ]]; then
      value[$field]=${1#*=}
    elif [[ ${pattern[$field]} == "$switch" ]]; then
      value[$field]=yes
    else
      refuse "--$field: has no value; write --$field=VALUE"
    fi
    [[ ${value[$field]} =~ ^(${pattern[$field]})$ ]] ||
      refuse "--$field: '${value[$field]}' does not look like ${pattern[$field]}"
    shift
  done
}

# need FLAG…: each has a value.
need() {
  local field
  for field; do
    [[ -n ${value[$field]} ]] || refuse "--$field: is missing; $usage"
  done
}

need_name() { # of what clouds take as a name, which is a host name as well
  [[ $name =~ ^[a-z]([a-z0-9-]{0,36}[a-z0-9])?$ ]] ||
    refuse "NAME: '$name' is no name; use up to 38 of a-z, 0-9 and -, a letter first"
}

need_command() {
  ((${#command[@]})) || refuse "COMMAND: none is given after --; $usage"
}

is_dry() {
  [[ ${value[dry_run]} == yes ]]
}

# run COMMAND…: runs it, or prints it as it could be typed.
run() {
  local line
  if is_dry; then
    printf -v line '%q ' "$@"
    echo "${line% }" >&3
  else
    "$@"
  fi
}

# What the flags of libtpu are for, see env.sh.
purpose() {
  local usual=train
  if ((value[slices] > 1)); then usual=multislice; fi
  echo "${value[purpose]:-$usual}"
}

# The tracked files of this commit, without what is not committed.
pack_code() { # ARCHIVE
  if [[ -n $(git status --porcelain) ]]; then
    echo "warning: what is not committed stays here; the run is of commit $(git rev-parse --short HEAD)" >&2
  fi
  run git archive --format=tar --output="$1" HEAD
}
