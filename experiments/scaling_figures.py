"""Pictures of what the laws say of the grid's rows, for notebooks: each function draws on axes it is given.

Losses are bits a raw byte; bars and bands are intervals of 95 %.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from experiments.scaling_laws import Answer
from experiments.scaling_questions import Collapse, Edge, Split
from lwm.evaluation.figures import COLOURS, MARKERS
from lwm.scaling.allocation import chinchilla_optimum, optimum, tokens_for
from lwm.scaling.comparison import Judgement
from lwm.scaling.fitting import Fit
from lwm.scaling.resampling import percentiles, residual_bootstrap

BITS = "bits a raw byte"


def draw_residuals(axes: Axes, one: Answer) -> None:
    """Measured less foretold over tokens: hollow the runs of the fit, filled those held out."""
    for index, name in enumerate(("Chinchilla", "Kaplan", one.published)):
        for found, unseen in one.contenders[name]:
            for runs, face in ((found.runs, "none"), (unseen, COLOURS[index])):
                # Laws a little beside each other, so that none hides another.
                x, y = runs.tokens.sum(1) * 1.08 ** (index - 1), runs.loss - found.predict(runs)
                style = {"marker": MARKERS[index], "facecolors": face, "edgecolors": COLOURS[index], "s": 26}
                axes.scatter(x, y, label=name if face != "none" else None, **style)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="tokens N", ylabel=f"measured - foretold, {BITS}", title=one.where)
    axes.legend(frameon=False, fontsize=7)


def draw_errors(
    axes: Axes, judgements: Sequence[Judgement], seeds: float = math.nan, title: str = ""
) -> None:
    """Held-out errors of laws with their intervals, the smallest on top. seeds: a line where chance ends."""
    rows = sorted(judgements, key=lambda row: -row.held_out_rmse)
    value = np.array([row.held_out_rmse for row in rows])
    low, high = np.array([row.held_out_rmse_interval for row in rows]).T
    bars = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
    axes.errorbar(value, range(len(rows)), xerr=bars, fmt="o", color=COLOURS[0], capsize=3, label="95 %")
    if not math.isnan(seeds):
        axes.axvline(seeds, color=COLOURS[1], linestyle=":", label="spread of seeds")
    axes.set_yticks(range(len(rows)), [row.law for row in rows], fontsize=7)
    axes.set_xscale("log")
    axes.set(xlabel=f"held-out RMSE, {BITS}", title=title)
    axes.grid(axis="x", color="0.9")
    axes.legend(frameon=False, fontsize=7)


def draw_contours(axes: Axes, one: Answer, draws: int = 60) -> None:
    """Sizes and tokens of equal loss by Chinchilla's law and by the hypothesis; best sizes for budgets."""
    found, unseen = one.contenders["Chinchilla"][0]
    claim, _ = one.contenders[one.published][0]
    parameters = np.concatenate([found.runs.parameters, unseen.parameters])
    tokens = np.concatenate([found.runs.tokens[:, 0], unseen.tokens[:, 0]])
    axes.plot(parameters, tokens, ".", color="0.6", label="runs")
    sizes = np.geomspace(parameters.min() / 2, parameters.max() * 2, 60)
    levels = np.quantile(np.concatenate([found.runs.loss, unseen.loss]), (0.1, 0.35, 0.7))
    for index, loss in enumerate(levels):
        style = {"color": COLOURS[index]}
        axes.plot(sizes, tokens_for(found.law, found.theta, loss, sizes), **style, label=f"{loss:.2f}")
        axes.plot(sizes, tokens_for(claim.law, claim.theta, loss, sizes), **style, linestyle=":")
    flops = 6 * parameters * tokens
    budgets = np.geomspace(flops.min(), flops.max(), 12)
    best = [optimum(found.law, found.theta, budget) for budget in budgets]
    axes.plot(
        [b.parameters for b in best], [b.tokens for b in best], "k-", linewidth=1, label="best for a budget"
    )
    low, high = best_sizes(found, budgets, draws)
    axes.plot(low, budgets / 6 / low, "k--", linewidth=0.7, label="95 % of the best size")
    axes.plot(high, budgets / 6 / high, "k--", linewidth=0.7)
    axes.set(xscale="log", yscale="log", xlabel="parameters P", ylabel="tokens N", title=one.where)
    axes.set(xlim=(sizes[0], sizes[-1]), ylim=(tokens.min() / 2, tokens.max() * 4))
    axes.legend(frameon=False, fontsize=7, title=f"{BITS} (dotted: hypothesis)", title_fontsize=7)


def best_sizes(found: Fit, budgets: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of the best size by Chinchilla's law, for each budget in FLOPs."""
    thetas = residual_bootstrap(found, draws)
    values = [found.law.values(theta) for theta in thetas]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        drawn = np.array([[_size(each, budget) for budget in budgets] for each in values])
    return tuple(np.array(percentiles(drawn)).T)


def _size(values: dict[str, float], flops: float) -> float:
    """The best size, between a parameter and the whole budget: a draw may be flat in one direction."""
    if min(values["alpha"], values["beta"]) <= 0:
        return 1.0 if values["alpha"] <= 0 else flops / 6
    return float(np.clip(chinchilla_optimum(values, flops).parameters, 1.0, flops / 6))


def draw_tokenizers(axes: Axes, found: Collapse) -> None:
    """Loss over T / C, a line for each tokenizer; dots are runs, lines the mean over seeds."""
    for index, (name, runs) in enumerate(found.runs.items()):
        tokens = np.unique(runs.tokens[:, 0])
        mean = [runs.loss[runs.tokens[:, 0] == count].mean() for count in tokens]
        axes.plot(runs.tokens[:, 0], runs.loss, MARKERS[index], color=COLOURS[index], alpha=0.5, markersize=5)
        axes.plot(tokens, mean, color=COLOURS[index], marker=MARKERS[index], label=name)
    axes.set_xscale("log", base=2)
    axes.set(
        xlabel="tokens T / C", ylabel=BITS, title=f"{found.modality}, {found.parameters:,.0f} parameters"
    )
    axes.legend(frameon=False, fontsize=7)


def draw_offsets(axes: Axes, found: Collapse) -> None:
    """What a tokenizer's runs lie above those of the first, with Student's intervals."""
    for index, one in enumerate(found.offsets):
        bars = [[one.above - one.low], [one.high - one.above]]
        axes.errorbar(one.above, index, xerr=bars, fmt="o", color=COLOURS[index + 1], capsize=3)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(found.offsets)), [one.tokenizer for one in found.offsets], fontsize=8)
    axes.set_ylim(-0.5, len(found.offsets) - 0.5)
    axes.set(xlabel=f"above {next(iter(found.runs))}, {BITS}", title=f"p = {found.p:.1g}")


def draw_split(axes: Axes, found: Sequence[Split]) -> None:
    """The change of the foretold loss by how many names one corpus has, a line for each modality."""
    modalities = dict.fromkeys(one.modality for one in found)
    for index, modality in enumerate(modalities):
        own = [one for one in found if one.modality == modality]
        value = np.array([one.foretold for one in own])
        bars = [value - [one.low for one in own], [one.high for one in own] - value]
        style = {"color": COLOURS[index], "marker": MARKERS[index], "capsize": 3}
        x = np.array([one.names for one in own]) * 1.02 ** (index - 1)
        axes.errorbar(x, value, yerr=np.maximum(bars, 0), label=f"{modality}, foretold", **style)
    axes.axhline(0, color="k", linestyle="--", linewidth=1, label="measured: the same runs")
    axes.set_xscale("log", base=2)
    names = sorted({one.names for one in found})
    axes.set_xticks(names, names)
    axes.set(xlabel="names for one corpus", ylabel=f"change of the loss, {BITS}")
    axes.legend(frameon=False, fontsize=8)


def draw_changes(axes: Axes, found: Edge) -> None:
    """Text beside others against the same text alone, mixture by mixture."""
    keys = list(found.changes)
    for index, key in enumerate(keys):
        _, mean, low, high = found.changes[key]
        axes.errorbar(
            mean, index, xerr=[[mean - low], [high - mean]], fmt="o", color=COLOURS[index % 7], capsize=3
        )
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(keys)), [f"{name} x {times}" for name, times in keys], fontsize=8)
    axes.set_ylim(-0.5, len(keys) - 0.5)
    axes.set(xlabel=f"text: beside others - alone, {BITS}", title="the same model, the same text")


def draw_smaller(axes: Axes, found: Edge) -> None:
    """Parameters that reach the same loss of text, over tokens of each other modality."""
    times = [count for count, own in found.smaller.items() if np.isfinite(own).all()]
    value, low, high = np.array([found.smaller[count] for count in times]).reshape(-1, 3).T
    bars = np.maximum([value - low, high - value], 0)
    axes.errorbar(
        times, value, yerr=bars, fmt="o-", color=COLOURS[0], capsize=3, label="effective data, 95 %"
    )
    axes.axhline(1, color="0.6", linewidth=0.8, label="as with text alone")
    axes.set(xscale="log", yscale="log", xlabel="tokens of each other modality, times those of text")
    axes.set_xticks(list(found.smaller), list(found.smaller))
    axes.set(ylabel="parameters for the same loss of text", title="contour of equal loss")
    axes.legend(frameon=False, fontsize=8)
