#!/usr/bin/env bash
# Trains on Cloud TPU VMs that wait in the queue; every host starts itself (tpu_startup.sh).
#   launch/tpu_vm.sh create NAME --zone=Z --type=v5p-128 --bucket=B [--slices=2] [--spot] -- COMMAND…
#   launch/tpu_vm.sh keep   NAME, the same flags    asks again for what was taken away, until the run has ended
#   launch/tpu_vm.sh logs   NAME --zone=Z [--host=0] [--slices=2 --slice=1]
#   launch/tpu_vm.sh list --zone=Z
#   launch/tpu_vm.sh delete NAME --zone=Z
# Also --project=P, --runtime=IMAGE, --purpose=train (see env.sh), and --dry_run, which only prints the commands.
# Give COMMAND a --workdir in the bucket: whatever asks for NAME again then goes on from its last checkpoint.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

actions='create keep logs list delete'
usage="launch/tpu_vm.sh ${actions// /|} NAME --zone=Z --type=T --bucket=B -- COMMAND…"
value=([zone]='' [type]='' [bucket]='' [slices]=1 [spot]=no [project]='' [runtime]='' [purpose]=''
  [slice]=0 [host]=0)
pattern=([zone]='[a-z]+-[a-z]+[0-9]-[a-z]' [type]='(v4|v5litepod|v5p|v6e)-[1-9][0-9]*' [spot]="$switch"
  [bucket]='[a-z0-9][a-z0-9._-]+' [slices]='[1-9][0-9]*' [slice]='[0-9]+' [host]='[0-9]+'
  [project]='[a-z][a-z0-9:.-]+' [runtime]='[a-z0-9.-]+' [purpose]='train|multislice|debug|none')
read_flags "$@"
readonly tpus=(gcloud compute tpus)
readonly log=/var/log/lwm.log
place=(--zone="${value[zone]}" ${value[project]:+--project="${value[project]}"})
job=gs://${value[bucket]}/jobs/$name

# The image of a type, as Google lists them.
runtime() {
  case $1 in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
  esac
}

# The chips of one slice: v4 and v5p are named after their cores, of which a chip has two.
chips() {
  case $1 in
    v4-* | v5p-*) echo $((${1##*-} / 2)) ;;
    *) echo "${1##*-}" ;;
  esac
}

# The hosts of one slice: four chips each, but up to eight of v5e and v6e are one host.
hosts() {
  local chips
  chips=$(chips "$1")
  case $1 in
    v4-* | v5p-*) echo $(((chips + 3) / 4)) ;;
    *) echo $((chips <= 8 ? 1 : chips / 4)) ;;
  esac
}

# Puts the request in the queue.
request() {
  local arguments=("$name" "${place[@]}" --accelerator-type="${value[type]}")
  arguments+=(--runtime-version="${value[runtime]:-$(runtime "${value[type]}")}")
  if ((value[slices] > 1)); then
    arguments+=(--node-count="${value[slices]}" --node-prefix="$name")
  else
    arguments+=(--node-id="$name")
  fi
  if [[ ${value[spot]} == yes ]]; then
    arguments+=(--spot)
  fi
  arguments+=(--metadata=lwm-job="$job" --metadata-from-file=startup-script=launch/tpu_startup.sh)
  arguments+=(--scopes=https://www.googleapis.com/auth/cloud-platform) # the bucket
  run "${tpus[@]}" queued-resources create "${arguments[@]}"
}

delete() {
  run "${tpus[@]}" queued-resources delete "$name" "${place[@]}" --force --quiet
}

create() {
  need zone type bucket
  need_name
  need_command
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  printf '%s\0' "$(purpose)" "${command[@]}" >"$folder/command"
  printf running >"$folder/result"
  pack_code "$folder/code.tar"
  run gcloud storage cp "$folder/code.tar" "$folder/command" "$folder/result" "$job/"
  request
  local count=${value[slices]}
  echo "$name: $count x ${value[type]}, $((count * $(chips "${value[type]}"))) chips on" \
    "$((count * $(hosts "${value[type]}"))) hosts; logs in $job/logs when a run ends"
}

# One look at a run, which ends this script with the run's code when it has one; true of a dry run.
looked() {
  local result state
  if is_dry; then
    run gcloud storage cat "$job/result"
    run "${tpus[@]}" queued-resources describe "$name" "${place[@]}" --format='value(state.state)'
    result=running state=SUSPENDED
  else
    result=$(gcloud storage cat "$job/result") || return 1
    state=$("${tpus[@]}" queued-resources describe "$name" "${place[@]}" --format='value(state.state)') || state=ABSENT
  fi
  if [[ $result != running ]]; then
    [[ $state == ABSENT ]] || delete
    echo "$name: ended with code $result; logs in $job/logs"
    exit "$result"
  fi
  case $state in
    SUSPENDED | FAILED) delete && request ;;
    ABSENT) request ;;
  esac || echo "$name: could not ask again, will try once more in a minute" >&2
  is_dry
}

case $action in
  create) create ;;
  keep)
    need zone type bucket
    need_name
    until looked; do sleep 60; done
    ;;
  logs)
    need zone
    need_name
    node=$name
    if ((value[slices] > 1 || value[slice])); then node=$name-${value[slice]}; fi
    run "${tpus[@]}" tpu-vm ssh "$node" "${place[@]}" --worker="${value[host]}" --command="tail -n 200 -F $log"
    ;;
  list)
    need zone
    run "${tpus[@]}" queued-resources list "${place[@]}"
    ;;
  delete)
    need zone
    need_name
    delete
    ;;
esac
