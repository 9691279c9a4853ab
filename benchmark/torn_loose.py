"""Where does more guidance break? Trains with a large beta_1 and measures each batch before and after its update.

python benchmark/torn_loose.py               # Walker2d-v4, beta_1 = 4, w_cons 0.1 and 0.4: results/torn-loose.csv and .png
python benchmark/torn_loose.py --draw-only   # only the picture, from the CSV

A_z2 is the mean of A_norm z^2 over the batch and the action's dimensions, z = (a - mu_p) / s_p. Five minutes a run.
"""

import dataclasses
import functools
import sys
import time
from pathlib import Path

import pandas as pd
import torch
import tyro
from figures import panels

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import prefpoe_continuous as script

RESULTS = ROOT / "benchmark" / "results" / "torn-loose.csv"
COLUMNS = ["global_step", "approx_kl", "episodic_return", "sigma_pref"]
LOOKS = {0.1: dict(color="#b2182b", linestyle="-"), 0.4: dict(color="#2f7fb8", linestyle="--")}


@dataclasses.dataclass
class Args:
    env_id: str = "Walker2d-v4"
    """task"""
    beta1: float = 4.0
    """weight of the advantages"""
    w_cons: tuple[float, ...] = (0.1, 0.4)
    """weights of L_cons, a run each"""
    total_timesteps: int = 1_000_000
    """environment steps a run"""
    results: Path = RESULTS
    """CSV file to write; the picture lies beside it"""
    draw_only: bool = False
    """draw the picture of the CSV file that is there"""


def A_z2(agent: script.Agent, batch: script.Batch) -> float:
    with torch.no_grad():
        _, pref, _ = agent(batch.obs)
    return (batch.A_norm[:, None] * ((batch.action - pref.mean) / pref.std) ** 2).mean().item()


def measured_run(args: Args, w_cons: float) -> pd.DataFrame:
    """Train one run; its rows are those of metrics.csv with A_z2 before and after each update."""
    update = script.update
    found = []

    @functools.wraps(update)
    def measuring(step, learner, batch, *rest):
        before = A_z2(learner.agent, batch)
        losses = update(step, learner, batch, *rest)
        found.append((before, A_z2(learner.agent, batch)))
        return losses

    script.update = measuring
    name = f"torn-loose-{args.env_id}-{args.beta1:g}-{w_cons:g}-{int(time.time())}"
    flags = dict(env_id=args.env_id, beta1=args.beta1, w_cons=w_cons, total_timesteps=args.total_timesteps)
    script.main(script.Args(**flags, run_name=name))
    script.update = update
    metrics = pd.read_csv(Path("runs", name, "metrics.csv"))[COLUMNS]
    return metrics.assign(A_z2_before=[x for x, _ in found], A_z2_after=[x for _, x in found], w_cons=w_cons)


def draw(rows: pd.DataFrame, title: str):
    drawn = {
        "approx_kl": r"approx_kl, mean over the update (nats)",
        "A_z2_after": r"$-E[A_\mathrm{norm}\, z^2]$ after the update",
        "sigma_pref": r"$\sigma_p$ (units of the action)",
        "episodic_return": "training return (environment's reward)",
    }
    figure, axes = panels(4, title, most=2)
    for axis, (column, label) in zip(axes, drawn.items(), strict=True):
        for w_cons, run in rows.groupby("w_cons"):
            y = -run[column] if column == "A_z2_after" else run[column]
            axis.plot(
                run["global_step"] / 1e6, y, lw=1, label=f"$w_\\mathrm{{cons}}$ = {w_cons:g}", **LOOKS.get(w_cons, {})
            )
        if column != "episodic_return":
            axis.set_yscale("symlog", linthresh=0.1) if column == "A_z2_after" else axis.set_yscale("log")
        axis.set(xlabel="environment steps (millions)", ylabel=label)
    axes[0].axhline(0.2, color="black", linestyle=":", lw=1, label="the scripts warn")
    axes[0].legend(fontsize="small")
    return figure


def main(args: Args) -> None:
    if not args.draw_only:
        runs = []
        for w_cons in args.w_cons:
            runs.append(measured_run(args, w_cons))
            pd.concat(runs).to_csv(args.results, index=False, float_format="%.7g")
    title = f"{args.env_id}, $\\beta_1$ = {args.beta1:g}, one run each"
    draw(pd.read_csv(args.results), title).savefig(args.results.with_suffix(".png"), metadata={"Software": None})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
