#!/usr/bin/env bash
# One run of a sweep: trains it, goes on with it or skips it. A sweep or a SLURM array task calls it:
#   benchmark/run.sh NAME SCRIPT FLAGS...                 # runs/NAME, its output in runs/NAME.log
set -euo pipefail
cd "$(dirname "$0")/.."
if (($# < 2)) || [[ $1 == -* ]]; then echo "usage: benchmark/run.sh NAME SCRIPT FLAGS..." >&2 && exit 2; fi
name=$1 folder=runs/$1 args=""
shift
for word in "$@"; do # --track changes nothing that is learned
  if [[ $word != --track ]]; then printf -v args '%s%s%q' "$args" "${args:+ }" "$word"; fi
done
mkdir -p runs
exec 9>>"$folder.log"
trap 'exit 143' TERM # when the program below has ended, which SIGTERM reaches too; not where SLURM's shells ignore it
if command -v flock >/dev/null && ! flock -n 9; then
  echo "$(date +%T) $name: waiting for another sweep, which is at it"
  flock 9 || true # not every file system has locks
fi
rows=$(wc -l 2>/dev/null <"$folder/metrics.csv" || echo 0)
if ((rows > 1)) || [[ -f $folder/evaluation.json ]]; then # it has trained
  if [[ ! -f $folder.args ]]; then
    echo "$folder.args is missing: $folder is taken for a run with the arguments $args"
    echo "$args" >"$folder.args"
  fi
  made=$(<"$folder.args")
  if [[ ${made// --track/} != "$args" ]]; then
    echo "$folder was made with other arguments, see $folder.args: give this one another PREFIX"
    exit 1
  fi
  if [[ -f $folder/evaluation.json ]]; then exit 0; fi
  if [[ " $* " == *" --track "* ]]; then track=--track; else track=--no-track; fi
  command=("$1" --resume "$folder" "$track")
else
  echo "$args" >"$folder.args"
  command=("$@" --run-name "$name")
fi
variant=${name#*__}
if WANDB_TAGS=${variant%__*} "${PYTHON:-.venv/bin/python}" "${command[@]}" >&9 2>&1; then
  echo "$(date +%T) $name finished"
else
  code=$?
  echo "$(date +%T) $name ended with exit code $code: $folder.log"
  exit 1
fi
