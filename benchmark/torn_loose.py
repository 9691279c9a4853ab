"""Where does more guidance break? Trains with a large beta_1 and measures each batch before and after its update.

python benchmark/torn_loose.py               # Walker2d-v4, beta_1 = 4, w_cons 0.1 and 0.4: results/torn-loose.csv and .png
python benchmark/torn_loose.py --draw-only   # only the picture, from the CSV

A_z2 is the mean of A_norm z^2 over the batch and the action's dimensions, z = (a - mu_p) / s_p. Five minutes a run.
"""

import sys
import time
from pathlib import Path

import pandas as pd
import torch
import tyro
from figures import WIDTH, add_legend, panels
from report import RESULTS, ROOT

sys.path.insert(0, str(ROOT))
import prefpoe_continuous as script

COLUMNS = ["global_step", "approx_kl", "episodic_return", "sigma_pref"]
LOOKS = {0.1: dict(color="#b2182b", lw=0.8), 0.4: dict(color="#7fb2d6", lw=1.6, zorder=1)}


def A_z2(agent: script.Agent, batch: script.Batch) -> float:
    with torch.no_grad():
        _, pref, _ = agent(batch.obs)
    return (batch.A_norm[:, None] * ((batch.action - pref.mean) / pref.std) ** 2).mean().item()


def measured_run(args: script.Args) -> pd.DataFrame:
    """Train one run; its rows are those of metrics.csv with A_z2 before and after each update."""
    update = script.update
    before = []
    after = []

    def measuring(step, learner, batch, *rest):
        before.append(A_z2(learner.agent, batch))
        losses = update(step, learner, batch, *rest)
        after.append(A_z2(learner.agent, batch))
        return losses

    script.update = measuring
    script.main(args)
    script.update = update
    metrics = pd.read_csv(Path("runs", args.run_name, "metrics.csv"))[COLUMNS]
    return metrics.assign(A_z2_before=before, A_z2_after=after, w_cons=args.w_cons)


def draw(rows: pd.DataFrame):
    rows = rows.assign(minus_A_z2=-rows["A_z2_after"])
    labels = {
        "approx_kl": "approx_kl (nats)",
        "minus_A_z2": r"$-E[A_\mathrm{norm}\, z^2]$ after the update",
        "sigma_pref": r"$\sigma_p$ (units of the action)",
        "episodic_return": "training return",
    }
    figure, axes = panels(4, "", WIDTH / 2, 2.8, most=2)
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for w_cons, run in rows.groupby("w_cons"):
            look = dict(label=f"$w_\\mathrm{{cons}}$ = {w_cons:g}", **LOOKS.get(w_cons, {}))
            axis.plot(run["global_step"] / 1e6, run[column], **look)
        axis.set(xlabel="environment steps (millions)", ylabel=label)
    axes[0].set_yscale("log")
    axes[0].axhline(0.2, color="black", linestyle=":", lw=1, label="the scripts warn")
    axes[1].set_yscale("symlog", linthresh=0.1)
    axes[2].set_yscale("log")
    add_legend(figure, ncols=3)
    return figure


def main(
    env_id: str = "Walker2d-v4",
    w_cons: tuple[float, ...] = (0.1, 0.4),
    total_timesteps: int = 1_000_000,
    results: Path = RESULTS / "torn-loose.csv",
    draw_only: bool = False,
) -> None:
    if not draw_only:
        runs = []
        for weight in w_cons:
            flags = dict(env_id=env_id, beta1=4.0, w_cons=weight, total_timesteps=total_timesteps)
            runs.append(measured_run(script.Args(**flags, run_name=f"torn-loose-{weight:g}-{time.time_ns()}")))
        pd.concat(runs).to_csv(results, index=False, float_format="%.7g")
    draw(pd.read_csv(results)).savefig(results.with_suffix(".png"), dpi=220, metadata={"Software": None})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
