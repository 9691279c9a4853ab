#!/usr/bin/env bash
# Runs the runs of a sweep, WORKERS at a time, and lists those that have not finished; run_sweep of common.sh calls it:
#   benchmark/reproduce.sh --list | benchmark/workers.sh        # a run a line, quoted for the shell
#
# Ctrl-C, SIGTERM and a closed terminal end it and all its runs, which save a checkpoint first; a second one ends them
# at once. Where there is setsid each run is a session of its own, so that Ctrl-C reaches it through this shell alone;
# elsewhere it reaches it twice.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
if ! type -P -- "$PYTHON" >/dev/null; then
  echo "benchmark/workers.sh: there is no program $PYTHON: make .venv as the README says, or set PYTHON" >&2
  exit 2
fi
stopped="" failed=0 pids=() list=()
session=$(type -P setsid || true)
while IFS= read -r run; do list+=("$run"); done

# shellcheck disable=SC2329 # the traps call it
stop() { # exit code
  local pid
  stopped=$1
  for pid in $(jobs -pr); do
    kill -TERM -- "-$pid" 2>/dev/null || pkill -TERM -P "$pid" || kill -TERM "$pid" 2>/dev/null || true
  done
}
trap 'stop 130' INT
trap 'stop 143' TERM HUP

for run in "${list[@]}"; do
  while [[ ! $stopped && $(jobs -pr | wc -l) -ge ${WORKERS:-2} ]]; do sleep 1 || true; done
  if [[ $stopped ]]; then break; fi
  eval "$session benchmark/run.sh $run </dev/null &"
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
if [[ $stopped ]]; then
  until wait; do :; done # the signal has ended one of those above
  echo "stopped; start it again to go on" || true # the terminal may be closed
  exit "$stopped"
fi

for run in "${list[@]}"; do
  name=${run%% *}
  if [[ ! -f runs/$name/evaluation.json ]]; then
    echo "not finished: runs/$name.log: $(tail -n 1 "runs/$name.log")"
    failed=1
  fi
done
exit $failed
