"""benchmark/torn_loose.py measures what it says, on a run of two iterations."""

import importlib
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import ROOT, environment

sys.path.insert(0, str(ROOT / "benchmark"))
torn_loose = importlib.import_module("torn_loose")


def test_a_z2_is_the_mean_over_batch_and_dimensions(continuous):
    action, A_norm = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([2.0, -1.0])
    pref = continuous.Gaussian(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    batch = continuous.Batch(None, action, *[None] * 4, A_norm)
    by_hand = (2 * (1 + 4) - (4 + 4)) / 4  # z = 1, 2; -2, -2
    assert torn_loose.A_z2(lambda obs: (None, pref, None), batch) == pytest.approx(by_hand)


def test_two_iterations_are_measured(tmp_path):
    path = tmp_path / "x.csv"
    words = ["--env-id", "Pendulum-v1", "--total-timesteps", "4096", "--w-cons", "0.1", "--results", path]
    command = [sys.executable, ROOT / "benchmark/torn_loose.py", *map(str, words)]
    subprocess.run(command, cwd=tmp_path, env=environment(TORCH_COMPILE_DISABLE="1"), check=True)
    rows = pd.read_csv(path)
    assert rows["global_step"].tolist() == [2048, 4096]
    assert (rows["w_cons"] == 0.1).all()
    assert (rows["A_z2_before"] != rows["A_z2_after"]).all()
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
