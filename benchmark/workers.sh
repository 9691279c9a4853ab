#!/usr/bin/env bash
# Runs the runs of a sweep, WORKERS at a time, and says of each how it has ended; run_sweep of common.sh calls it:
#   benchmark/reproduce.sh --list | benchmark/workers.sh        # a run a line, quoted for the shell
#
# Ctrl-C, SIGTERM and a closed terminal end it and all its runs, and so does a run whose command line is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
if ! type -P -- "$PYTHON" >/dev/null; then
  echo "benchmark/workers.sh: there is no program $PYTHON: make .venv as the README says, or set PYTHON" >&2
  exit 2
fi
list=() pids=() ended=0 failed="" # pids: of the runs that go on, each at its place in the list
while IFS= read -r run; do list+=("$run"); done

stop() { # exit code
  trap '' INT TERM HUP
  for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
  wait
  echo "stopped; start it again to go on" || true # the terminal may be closed
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM HUP

reason() { # log: its last line with letters; of a box, as tyro draws them around mistakes, the first
  awk '/^╭/ { box = 1; getline; said = $0 } /[[:alpha:]]/ && !box { said = $0 } /^╰/ { box = 0 }
    END { gsub(/│/, "", said); gsub(/^ +| +$/, "", said); print said }' "$1"
}

end() { # place in the list: says how that run has ended
  local name=${list[$1]%% *} code=0
  wait "${pids[$1]}" || code=$?
  unset "pids[$1]"
  ended=$((ended + 1))
  if ((code == 0)); then
    echo "[$ended/${#list[@]}] $(date +%T) $name finished"
  else
    echo "[$ended/${#list[@]}] $(date +%T) $name: exit code $code, runs/$name.log: $(reason "runs/$name.log")"
    failed+=" $name"
  fi
  if ((code == 2)); then stop 2; fi
}

until_fewer() { # number: waits until fewer runs go on than that
  local i alive
  while true; do
    alive=" $(jobs -pr) "
    for i in ${pids[@]+"${!pids[@]}"}; do
      if [[ " ${alive//$'\n'/ } " != *" ${pids[i]} "* ]]; then end "$i"; fi
    done
    if ((${#pids[@]} < $1)); then break; fi
    sleep 0.3
  done
}

echo "${#list[@]} runs, ${WORKERS:-2} at a time"
for i in "${!list[@]}"; do
  until_fewer "${WORKERS:-2}"
  eval "benchmark/run.sh ${list[i]} </dev/null &"
  pids[i]=$!
done
until_fewer 1
echo "next: $PYTHON benchmark/report.py runs/*"
if [[ $failed ]]; then
  echo "not finished:$failed"
  exit 1
fi
