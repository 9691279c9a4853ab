"""benchmark/slurm.sh on a real SLURM: one node of two CPUs, its daemons started here by whoever runs the tests."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT, SCRIPTS, environment, read_metrics

PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"  # where a user's PATH lacks the daemons
BATCH, ITERATIONS = 256, 60
SWEEP = dict(TASKS="LunarLander-v3", VARIANTS="ppo prefpoe", SEEDS="1 2", STEPS=str(ITERATIONS * BATCH))
FLAGS = f"--no-compile --num-steps {BATCH} --num-minibatches 4 --update-epochs 1 --eval-every 0 --eval-episodes 1"
FLAGS = FLAGS.split()

# A requeued job waits until the credential of its first start has expired, by default two minutes, at least five seconds.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SchedulerParameters=sched_interval=1
JobRequeue=0
KillWait=20
MaxArraySize=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=cpu Nodes=ALL Default=YES
PartitionName=other Nodes=ALL
"""


def until(condition, seconds=120):
    """Wait for the condition to hold."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.1)


def free_ports():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


class Slurm:
    """Runs commands in a copy of the scripts and sweeps, beside a SLURM of its own."""

    def __init__(self, copy: Path, conf: Path):
        self.copy, self.runs = copy, copy / "runs"
        kept = environment(PYTHON=sys.executable, PATH=PATH, **SWEEP)
        kept = {name: value for name, value in kept.items() if not name.startswith(("SLURM", "SBATCH"))}
        self.environment = kept | {"SLURM_CONF": str(conf)}
        shutil.copytree(ROOT / "benchmark", copy / "benchmark", ignore=shutil.ignore_patterns("results"))
        for script in SCRIPTS:
            shutil.copy(ROOT / f"{script}.py", copy)

    def __call__(self, *argv: str, code: int | None = 0, **changes: str) -> str:
        """Output of a command that must end with this exit code, or with any."""
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        changed = self.environment | changes
        process = subprocess.run(argv, cwd=self.copy, env=changed, **pipes, timeout=60, check=False)
        assert code in (process.returncode, None), process.stdout
        return process.stdout

    def submit(self, *argv: str, **changes: str) -> str:
        """The number of the array that benchmark/slurm.sh submits."""
        output = self("benchmark/slurm.sh", *argv, **changes)
        return re.fullmatch(r"Submitted batch job (\d+)\n", output)[1]

    def job(self, job: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S*)", self("scontrol", "show", "job", job)))

    def names(self) -> list[str]:
        """The runs of the sweep, in the order of the array's tasks."""
        return [line.split()[0] for line in self("benchmark/reproduce.sh", "--list").splitlines()]

    def drain(self, seconds: int = 120):
        """Wait until no job waits or runs."""
        until(lambda: not self("squeue", "--noheader"), seconds)


@pytest.fixture
def slurm(tmp_path):
    """A SLURM for one test: it starts in a second, and pytest-xdist would start a shared one twice anyway."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]:
        leave = pytest.fail if os.environ.get("REQUIRE_SLURM") else pytest.skip
        leave(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    daemons = []
    with tempfile.TemporaryDirectory(prefix="slurm") as name:  # tmp_path may be too long for a socket's address
        folder = Path(name)
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        user, host = subprocess.check_output(["id", "-un"], text=True).strip(), socket.gethostname().split(".")[0]
        (folder / "slurm.conf").write_text(CONF.format(folder=folder, user=user, host=host, ports=free_ports()))
        slurm = Slurm(tmp_path, folder / "slurm.conf")

        def start(*argv):
            with open(tmp_path / f"{argv[0]}.log", "w") as log:
                output = dict(stdout=log, stderr=subprocess.STDOUT)
                daemons.append(subprocess.Popen(argv, env=slurm.environment, cwd=folder, **output))

        # --force: the folder is this user's alone, where a system's munged would want its socket open to all
        files = {"socket": "munge.socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        try:
            start("munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items()))
            until((folder / "munge.socket").exists, 20)
            start("slurmctld", "-D")
            start("slurmd", "-D")
            until(lambda: "idle" in slurm("sinfo", "--format=%T", code=None), 30)
            yield slurm
            slurm("scancel", "--user", user)
            slurm.drain(40)
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(20)


def test_a_requeued_task_goes_on_and_every_run_of_the_array_is_complete(slurm):
    names = slurm.names()
    assert len(names) == 4
    job = slurm.submit("reproduce", "--", *FLAGS)
    metrics = slurm.runs / names[0] / "metrics.csv"
    until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 5)
    slurm("scontrol", "requeue", f"{job}_1")
    until(lambda: slurm.job(f"{job}_1")["JobState"] == "PENDING")
    interrupted = metrics.read_bytes()
    assert 5 < interrupted.count(b"\n") <= ITERATIONS

    slurm.drain()
    for task, name in enumerate(names, 1):
        steps = [int(row["global_step"]) for row in read_metrics(slurm.runs / name)]
        assert steps == [BATCH * i for i in range(1, ITERATIONS + 1)]
        assert (slurm.runs / name / "evaluation.json").exists()
        end = slurm.job(f"{job}_{task}")
        assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1" if task == 1 else "0")
    # With their wall clock: these iterations ran only once, but perhaps the last, which may lack its checkpoint.
    assert metrics.read_bytes().startswith(interrupted[: interrupted[:-1].rindex(b"\n")])

    assert slurm("benchmark/slurm.sh", "reproduce", "--", *FLAGS) == "reproduce: all runs have finished\n"
    assert not slurm("squeue", "--noheader")


def test_a_task_whose_run_fails_has_failed_and_names_the_log(slurm, tmp_path):
    """And has what it needs of the environment also where the site keeps that from the tasks."""
    python = tmp_path / "a python"
    says = 'echo $WANDB_RUN_GROUP, $WANDB_TAGS, $OMP_NUM_THREADS\nprintf "<%s>\\n" "$@"'
    python.write_text(f'#!/bin/sh\n{says}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    flags = ["--export=NONE", "--", "--exp-name", "a  'b $HOME ", "--no-such-flag"]
    job = slurm.submit("reproduce", *flags, SEEDS="1", VARIANTS="ppo", PYTHON=str(python))
    slurm.drain()
    end = slurm.job(f"{job}_1")
    assert end["JobState"] == "FAILED"
    assert end["ExitCode"] != "0:0"
    name = (slurm.runs / f"slurm-{job}_1.out").read_text().split()[1]
    first, *usage = (slurm.runs / f"{name}.log").read_text().splitlines()
    assert first == "reproduce, ppo, 1"
    assert "<a  'b $HOME >" in usage
    assert any("--no-such-flag" in line for line in usage if not line.startswith("<"))


def test_options_reach_sbatch_and_only_unfinished_runs_are_submitted(slurm):
    first, *others = slurm.names()
    (slurm.runs / first).mkdir(parents=True)
    (slurm.runs / first / "evaluation.json").touch()
    listed = slurm("benchmark/reproduce.sh", "--list").splitlines()
    (slurm.runs / f"{first}.args").write_text(listed[0].split(" ", 1)[1])
    site = ["--hold", "--partition=other", "--time=90", "--job-name=mine"]
    job = slurm.job(slurm.submit("reproduce", *site, "--", "--track", WORKERS="2"))
    assert (job["Partition"], job["TimeLimit"], job["JobName"]) == ("other", "01:30:00", "mine")
    assert (job["ArrayTaskId"], job["ArrayTaskThrottle"], job["Requeue"]) == ("1-3%2", "2", "1")
    lines = slurm("scontrol", "write", "batch_script", job["JobId"], "-").splitlines()
    submitted = [line for line in lines if line.startswith("LunarLander")]
    assert [line.split()[0] for line in submitted] == others
    assert all(line.endswith(" --track") for line in submitted)

    for changes, said in [({"SEEDS": "1 2 3"}, "5"), ({"TASKS": "Pong"}, "Pong")]:  # an array holds 4 runs here
        message = slurm("benchmark/slurm.sh", "reproduce", code=2, **changes)
        assert message.count("\n") == 1 and said in message


@pytest.mark.parametrize(("argv", "said"), [([], ""), (["run"], " run"), (["reproduce"], "sbatch")])
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, argv, said):
    """On a machine with all that the script needs but SLURM."""
    for name in ("bash", "basename", "dirname", "grep", "paste", "xargs"):
        (tmp_path / name).symlink_to(shutil.which(name))
    script, path = ROOT / "benchmark/slurm.sh", {"PATH": str(tmp_path)}
    process = subprocess.run([script, *argv], env=path, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.count("\n") == 1 and said in process.stderr
