#!/usr/bin/env bash
# The packages behind the tasks of MultiModel and the pictures of DreamLLM: fetched with apt, not installed.
#   launch/task_sources.sh FOLDER     250 MB to fetch, 570 MB unpacked; needs Debian or Ubuntu, but not root
# What is unpacked and whole is not fetched again: after an interruption, run the same command.
set -Eeuo pipefail
case ${1:-} in
  '' | -*) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
for tool in apt-get dpkg-deb; do
  command -v $tool >/dev/null || { echo "error: $tool: not found; run this on Debian or Ubuntu" >&2; exit 2; }
done
mkdir -p "$1"
cd "$1"
folder=$PWD

# whole PACKAGE COUNT PATTERN: is there at least so much of the package? A package of another release may
# have other files.
whole() {
  local found=0
  [[ -d $1 ]] && found=$(find "$1" -type f -path "*/$3" | wc -l)
  ((found >= $2))
}

# fetch PACKAGE COUNT PATTERN WHAT: COUNT files like PATTERN have to come out of it.
fetch() {
  local part=$1.part
  if whole "$1" "$2" "$3"; then
    echo "$1: there already ($4)"
    return
  fi
  rm -rf "$1" "$part"
  mkdir "$part"
  echo "$1: fetching ($4)"
  (cd "$part" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$1") # apt checks the sum
  dpkg-deb -x "$part"/*.deb "$part"
  rm "$part"/*.deb
  if ! whole "$part" "$2" "$3"; then
    echo "error: $1: fewer than $2 files like $3 in $folder/$part; the package has changed" >&2
    exit 2
  fi
  mv "$part" "$1"
}

trap 'echo "stopped; is the list of packages there and new (apt-get update)? the same command goes on" >&2' ERR
fetch sword-text-kjv 6 'engKJV*/?t.bz?' 'Bible of 1769, public domain'
fetch sword-text-sparv 6 'spaRV*/?t.bz?' 'Reina-Valera of 1909, public domain'
fetch unicode-cldr-core 3 'common/*/fr.xml' 'names in English and French, Unicode licence'
fetch asterisk-core-sounds-en 1 'core-sounds-en.txt*' 'transcripts, CC-BY-SA-3.0'
fetch asterisk-core-sounds-en-wav 500 'sounds/*.wav' 'English prompts, CC-BY-SA-3.0'
fetch tuxpaint-stamps-default 700 'stamps/*.png' 'captioned pictures, GPL-2+'
fetch fonts-noto-color-emoji 1 'NotoColorEmoji.ttf' 'emoji in skin tones, OFL-1.1'
fetch gimp-help-en 600 'help/en/*.html' 'illustrated manual of GIMP, GFDL-1.2+ without invariant sections'
echo "$folder: python -m experiments.multimodel_data --sources=$folder --output=DATA goes on from here"
