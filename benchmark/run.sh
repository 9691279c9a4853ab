#!/usr/bin/env bash
# One run of a sweep: trains it, goes on with it or skips it. A sweep or a SLURM array task calls it:
#   benchmark/run.sh NAME SCRIPT FLAGS...                 # runs/NAME, its output in runs/NAME.log
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1 folder=runs/$1
shift
mkdir -p runs
exec 9>>"$folder.log"
if command -v flock >/dev/null; then flock 9 || true; fi # another sweep may be at the same run: wait for it
args=${*/ --track/} # changes nothing that is learned
if [[ -f $folder.args && $(<"$folder.args") != "$args" ]]; then
  echo "$folder was made with other arguments, see $folder.args: give this one another PREFIX"
  exit 1
fi
echo "$args" >"$folder.args"
if [[ -f $folder/evaluation.json ]]; then exit 0; fi
if [[ -f $folder/config.json ]]; then command=("$1" --resume "$folder"); else command=("$@" --run-name "$name"); fi
variant=${name#*__}
if WANDB_TAGS=${variant%__*} "${PYTHON:-.venv/bin/python}" "${command[@]}" >&9 2>&1; then
  echo "$(date +%T) $name finished"
else
  code=$?
  echo "$(date +%T) $name ended with exit code $code: $folder.log"
  exit 1
fi
