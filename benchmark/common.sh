# shellcheck shell=bash
# What the sweeps share: each names its runs with the functions of cells.sh and ends with `run_sweep "$@"`.
#
# Options of every sweep:
#   SEEDS="1 2 3" TASKS="Ant-v4" VARIANTS="ppo prefpoe"   only these (default: each cell's number of seeds, all)
#   WORKERS=2 STEPS=1000000 PYTHON=.venv/bin/python       runs at a time, one thread each; environment steps a run
#   PREFIX=short-                                         before the runs' names, for other STEPS or flags
#   --list                                                print the runs and stop
#
# All other flags go to every run; with --track the sweep is its group on Weights & Biases and the variant its tag.
# A run is runs/<task>__<variant>__<seed> and its output runs/<...>.log; sweeps share the runs they have in common.
# Finished runs are skipped and interrupted ones go on, so start a sweep again at will; Ctrl-C stops all its runs, and a
# wrong flag does at the first one. Failed runs are listed at the end; the exit code is 0 where every run has finished.
set -euf -o pipefail
fail() { echo "benchmark/$(basename "$0"): $*" >&2 && exit 2; }
for flag in "$@"; do
  if [[ $flag == -h || $flag == --help ]]; then # the comment at the head of the sweep, and the options above
    sed -n -e '/^#!/d; /^# shellcheck/d; s/^# \{0,1\}//p' -e t -e q "$0"
    sed -n -e '1,/^#$/d; s/^# \{0,1\}//p' -e t -e q "${BASH_SOURCE[0]}" && exit
  fi
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export STEPS=${STEPS:-1000000} PYTHON=${PYTHON:-.venv/bin/python} WORKERS=${WORKERS:-2} OMP_NUM_THREADS=1
WANDB_RUN_GROUP=${WANDB_RUN_GROUP:-$(basename "$0" .sh)}
export WANDB_RUN_GROUP
[[ $WORKERS =~ ^[1-9][0-9]*$ ]] || fail "WORKERS=$WORKERS: give the number of runs at a time"
[[ $STEPS =~ ^[1-9][0-9]*$ ]] || fail "STEPS=$STEPS: give the number of environment steps a run"
[[ " ${SEEDS:-}" =~ ^([[:space:]]+(0|[1-9][0-9]*))*[[:space:]]*$ ]] || fail "SEEDS=$SEEDS: give numbers, as in SEEDS=\"1 2 3\""
[[ ${PREFIX:-} =~ ^([A-Za-z0-9._][A-Za-z0-9._-]*-)?$ ]] || fail "PREFIX=$PREFIX: give letters, digits, . _ and -, and a - at the end"
for name in TASKS VARIANTS SEEDS; do # words with one blank between them, whatever stood there
  if [[ ${!name:-} ]]; then
    read -r -d '' -a words <<<"${!name}" || true
    printf -v "$name" %s "${words[*]:- }"
  fi
done
# shellcheck source=benchmark/cells.sh
source benchmark/cells.sh

check() { # option words: exits with one line where the option names another
  local word
  for word in ${!1:-}; do [[ " $2 " == *" $word "* ]] || fail "$1: there is no $word, only: $2"; done
}

run_sweep() { # flags...: all cells, seed by seed, so that an early look sees every variant
  local only_list=false flags="" word list
  check TASKS "$tasks"
  check VARIANTS "$variants"
  ((${#runs[@]})) || fail "there are no runs with these TASKS, VARIANTS and SEEDS"
  for word in "$@"; do
    case ${word//_/-} in
      --list) only_list=true ;;
      --env-id* | --seed* | --total-timesteps* | --run-name* | --resume* | --evaluate*)
        fail "$word: each run has its own; choose by TASKS, SEEDS, STEPS and PREFIX"
        ;;
      *) printf -v flags '%s %q' "$flags" "$word" ;;
    esac
  done
  list=$(for word in "${runs[@]}"; do echo "$word$flags"; done | sort -s -n -k 1,1 | cut -d ' ' -f 2-)
  if $only_list; then echo "$list"; else exec benchmark/workers.sh <<<"$list"; fi
}
