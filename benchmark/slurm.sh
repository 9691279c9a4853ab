#!/usr/bin/env bash
# Submits the runs of a sweep as a SLURM job array, a task of one core each:
#
#   benchmark/slurm.sh SWEEP [sbatch options] [-- flags for every run]
#   benchmark/slurm.sh reproduce --partition=cpu --time=02:00:00 --mem=2G -- --track
#
# The options of benchmark/common.sh hold; WORKERS limits the tasks that run at a time (default: as many as SLURM lets).
# All nodes need this folder at this path. A task that is preempted or requeued goes on from its checkpoint when it
# starts again. To see what failed:
#
#   sacct -X --jobs=JOB --state=FAILED,TIMEOUT,OUT_OF_MEMORY   # which tasks; runs/slurm-JOB_TASK.out names a task's run
#   tail -n 5 runs/RUN.log                                     # why
#
# Then submit the sweep again: only the runs that have not finished are submitted, and each goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "benchmark/slurm.sh: $*" >&2 && exit 2; }
if [[ " $* " =~ " -h "|" --help " ]]; then sed -n '2,/^[^#]/ s/^# \{0,1\}//p' benchmark/slurm.sh && exit; fi

sweep=$(basename -- "${1:-}" .sh)
known=$(grep -l '^run_sweep ' benchmark/*.sh | xargs basename -a -s .sh | paste -s -d ' ')
[[ -n $sweep ]] || fail "name a sweep: $known"
[[ " $known " == *" $sweep "* ]] || fail "there is no sweep $sweep, only: $known"
command -v sbatch >/dev/null || fail "no sbatch on this machine: submit from one that has SLURM's commands"
type -P -- "${PYTHON:-.venv/bin/python}" >/dev/null || fail "there is no ${PYTHON:-.venv/bin/python}: make .venv, or set PYTHON"
shift
options=(--job-name="$sweep" --requeue --ntasks=1 --cpus-per-task=1)
options+=(--chdir="$PWD" --open-mode=append --output=runs/slurm-%A_%a.out)
while (($#)) && [[ $1 != -- ]]; do options+=("$1") && shift; done

all=$("benchmark/$sweep.sh" --list "${@:2}")
runs=$(while IFS= read -r run; do
  folder=runs/${run%% *} args=${run#* }
  [[ -f $folder/evaluation.json && $(cat "$folder.args" 2>/dev/null) == "${args// --track/}" ]] || echo "$run"
done <<<"$all")
if [[ -z $runs ]]; then echo "$sweep: all runs have finished" && exit; fi
number=$(wc -l <<<"$runs")
limit=$(scontrol show config | sed -n 's/^MaxArraySize *= //p')
((number < limit)) || fail "$number runs, but an array holds $((limit - 1)) here: choose by TASKS, VARIANTS or SEEDS"
printf -v settings 'PYTHON=%q WANDB_RUN_GROUP=%q' "${PYTHON:-.venv/bin/python}" "${WANDB_RUN_GROUP:-$sweep}"
mkdir -p runs

# SLURM keeps a copy of the script with each array, so the list of runs belongs in it.
sbatch --array="1-$number${WORKERS:+%$WORKERS}" "${options[@]}" <<JOB
#!/usr/bin/env bash
export $settings OMP_NUM_THREADS=1
mapfile -t runs <<'END'
$runs
END
run=\${runs[SLURM_ARRAY_TASK_ID - 1]}
echo "\$(date +%T) \${run%% *} on \$(hostname)"
eval "exec benchmark/run.sh \$run"
JOB
