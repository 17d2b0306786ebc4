#!/usr/bin/env bash
# The startup script that launch/tpu_vm.sh gives to every host of a TPU: at each boot, as root, a host installs
# the job's code and runs its command until somebody has a final result, 0 or 2 (a mistake that only a change
# mends). A host that was taken away, or whose run failed, so goes on from the last checkpoint by itself.
set -euo pipefail
attributes=http://metadata.google.internal/computeMetadata/v1/instance/attributes
job=$(curl -sf --retry 10 -H 'Metadata-Flavor: Google' "$attributes/lwm-job") # gs://BUCKET/jobs/NAME
root=${LWM_ROOT:-} # of the file system, another one in tests
mkdir -p "$root/var/log" "$root/opt/lwm"
exec >>"$root/var/log/lwm.log" 2>&1
export HOME=/root # which boot scripts lack and gcloud wants

cd "$root/opt/lwm"
until gcloud storage cp "$job/code.tar" "$job/command" .; do sleep 10; done
tar -xf code.tar
mapfile -d '' -t command <"command" # the purpose, and the command word by word
source launch/env.sh
tpu_environment

until [[ $(gcloud storage cat "$job/result") =~ ^[0-9]+$ ]]; do
  code=0
  launch/on_host.sh "${command[@]}" || code=$?
  echo "$(date -Is) ended with code $code"
  case $code in
    0 | 2) printf '%s' "$code" | gcloud storage cp - "$job/result" || true ;;
    *) sleep 30 ;; # the other hosts notice that one is missing, and start again too
  esac
  gcloud storage cp "$root/var/log/lwm.log" "$job/logs/$(hostname).log" || true # the log stays here as well
done
