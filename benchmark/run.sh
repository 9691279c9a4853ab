#!/usr/bin/env bash
# One run of a sweep: trains it, goes on with it or skips it. A sweep or a SLURM array task calls it:
#   benchmark/run.sh NAME SCRIPT FLAGS...
# The run is runs/NAME; beside it are its output, NAME.log, and how it was made: script and flags, NAME.args, and the
# commit, NAME.commit, with a line more where it went on at another one. The exit code is the script's.
set -euo pipefail
cd "$(dirname "$0")/.."
if (($# < 2)) || [[ $1 == -* ]]; then echo "usage: benchmark/run.sh NAME SCRIPT FLAGS..." >&2 && exit 2; fi
name=$1 folder=runs/$1 args="" waiting=""
shift
for word in "$@"; do # --track changes nothing that is learned
  if [[ $word != --track ]]; then printf -v args '%s%s%q' "$args" "${args:+ }" "$word"; fi
done
mkdir -p runs
exec 9>>"$folder.log" # which the script inherits, and so the lock
until flock -n 9 2>/dev/null; do
  if (($? != 1)); then break; fi # no flock here, or no locks on this file system
  if [[ ! $waiting ]]; then echo "$(date +%T) $name: waiting for another sweep, which is at it"; fi
  waiting=yes
  sleep 1
done
if [[ -f $folder/metrics.csv || -f $folder/evaluation.json ]]; then # it has trained
  if [[ $(cat "$folder.args" 2>/dev/null) != "$args" ]]; then
    echo "error: $folder has other arguments, or none, in $folder.args: give this one another PREFIX" >&9
    exit 2
  fi
  if [[ -f $folder/evaluation.json ]]; then exit 0; fi
  if [[ " $* " == *" --track "* ]]; then track=--track; else track=--no-track; fi
  command=("$1" --resume "$folder" "$track")
else
  echo "$args" >"$folder.args"
  rm -f "$folder.commit"
  command=("$@" --run-name "$name")
fi
commit=$(git describe --always --dirty 2>/dev/null || true)
if [[ $(tail -n 1 "$folder.commit" 2>/dev/null) != "$commit" ]]; then echo "$commit" >>"$folder.commit"; fi
variant=${name#*__}
export WANDB_TAGS=${variant%__*}
exec "${PYTHON:-.venv/bin/python}" "${command[@]}" >&9 2>&1
