#!/usr/bin/env bash
# Trains on a GKE cluster through xpk (pip install xpk), in an image of this commit.
#   launch/gke.sh cluster --cluster=C --zone=Z --project=P --type=v5p-128 [--slices=2] [--spot]
#   launch/gke.sh create NAME --cluster=C --zone=Z --project=P --type=v5p-128 --registry=R [--slices=2] \
#     [--restarts=100] -- COMMAND…
#   launch/gke.sh logs   NAME [--slice=0] [--host=0]
#   launch/gke.sh list   --cluster=C --zone=Z --project=P
#   launch/gke.sh delete NAME --cluster=C --zone=Z --project=P
# R is a repository of images, for example europe-docker.pkg.dev/PROJECT/lwm. Also --purpose=train (see env.sh),
# and --dry_run, which only prints the commands. Give COMMAND a --workdir in a bucket: whatever starts NAME
# again, its restarts among them, goes on from its last checkpoint.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

actions='cluster create logs list delete'
usage="launch/gke.sh ${actions// /|} NAME --cluster=C --zone=Z --project=P --type=T -- COMMAND…"
value=([cluster]='' [zone]='' [project]='' [type]='' [registry]='' [slices]=1 [spot]=no [restarts]=100 [purpose]=''
  [slice]=0 [host]=0)
pattern=([zone]='[a-z]+-[a-z]+[0-9]-[a-z]' [type]='[a-z0-9]+-[0-9x]+' [spot]="$switch" [slices]='[1-9][0-9]*'
  [cluster]='[a-z][a-z0-9-]+' [project]='[a-z][a-z0-9:.-]+' [registry]='[a-z0-9.-]+/[a-z0-9./:_-]+'
  [restarts]='[0-9]+' [purpose]='train|multislice|debug|none' [slice]='[0-9]+' [host]='[0-9]+')
read_flags "$@"
place=(--cluster="${value[cluster]}" --zone="${value[zone]}" --project="${value[project]}")

create() {
  need cluster zone project type registry
  need_name
  need_command
  local image words
  image=${value[registry]}/lwm:$(git rev-parse --short=12 HEAD)
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  mkdir "$folder/code"
  pack_code "$folder/code.tar"
  run tar -xf "$folder/code.tar" -C "$folder/code"
  run docker build --tag="$image" --file="$folder/code/launch/Dockerfile" "$folder/code"
  run docker push "$image"
  # xpk takes one line for a shell: every word quoted, nothing in it is expanded there.
  printf -v words '%q ' launch/on_host.sh "$(purpose)" "${command[@]}"
  # xpk restarts after codes from 127 on, a signal's among them: 1, an exception (a host that lost another), is
  # for us to add; after 2, a mistake that only a change mends, it gives up.
  run xpk workload create --workload="$name" "${place[@]}" --tpu-type="${value[type]}" \
    --num-slices="${value[slices]}" --docker-image="$image" --max-restarts="${value[restarts]}" \
    --restart-on-exit-codes=1 --termination-grace-period-seconds=300 --command="${words% }"
}

case $action in
  cluster)
    need cluster zone project type
    paid=--on-demand
    if [[ ${value[spot]} == yes ]]; then paid=--spot; fi
    run xpk cluster create "${place[@]}" --tpu-type="${value[type]}" --num-slices="${value[slices]}" "$paid"
    ;;
  create) create ;;
  logs)
    need_name
    labels=(jobset.sigs.k8s.io/jobset-name="$name" jobset.sigs.k8s.io/job-index="${value[slice]}"
      batch.kubernetes.io/job-completion-index="${value[host]}")
    run kubectl logs --follow --selector="$(IFS=, && echo "${labels[*]}")"
    ;;
  list)
    need cluster zone project
    run xpk workload list "${place[@]}"
    ;;
  delete)
    need cluster zone project
    need_name
    run xpk workload delete --workload="$name" "${place[@]}"
    ;;
esac
