"""Figures of notebook 4: which layers a head should see."""

import numpy as np

from e2far.analysis.comparisons import short_name
from e2far.analysis.subjects import END_TO_END, PEOPLE, RECOGNISER, TWIN, UNTRAINED
from e2far.plots import COLOURS, panels

MARKERS = {RECOGNISER: "o", TWIN: "s", PEOPLE: "^", END_TO_END: "D", UNTRAINED: "v"}
BETTER = "#009E73"  # of the half of an axis where the first of a pair is better


def levels(table, label):
    """What heads reach, by the layers that they see: a panel per target, a colour per trunk.

    table: rows of target, trunk, layer, value, low, high (data frame), where more is better
    """
    targets, trunks = (list(table[name].unique()) for name in ("target", "trunk"))
    table = table.assign(name=table["layer"].map(short_name).replace("5", "5, the last"))
    seen = sorted(set(table["name"]), key=lambda name: ("+" in name, "128" in name, name))
    figure, axes = panels(len(targets), len(targets), 3.7, 0.9 + 0.42 * len(seen), right=1.9)
    for axis, target in zip(axes, targets):
        for i, trunk in enumerate(trunks):
            rows = table[(table["target"] == target) & (table["trunk"] == trunk)]
            y = np.array([seen.index(name) for name in rows["name"]])
            around = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            look = dict(color=COLOURS[trunk], fmt=MARKERS[trunk], ms=5, capsize=2)
            shift = 0.16 * (i - (len(trunks) - 1) / 2)
            axis.errorbar(rows["value"], y + shift, xerr=around, label=trunk, **look)
        axis.axhline(sum("+" not in name for name in seen) - 0.5, color="#666666", lw=0.8)
        axis.axvline(0, color="#666666", lw=0.8)
        axis.set(title=target, xlabel=f"{label} (better →)", ylim=(len(seen) - 0.5, -0.5))
        axis.set_yticks(range(len(seen)), seen)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_ylabel("layers that the head sees")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def differences(sides):
    """Pairs of heads: dots and 95 % intervals, a row each, those of a trunk below its name. The
    better side of zero is green; ticks mark the lowest and the highest seed.

    sides: title -> (pairs of `comparisons`, what the axis shows, the sign that is better), a panel
    each, in which a trunk has the same place. A pair that is `hollow` has a hollow dot.
    """
    tops, count = places([pairs for pairs, *_ in sides.values()])
    figure, axes = panels(len(sides), len(sides), 9.2 / len(sides), 1.4 + 0.225 * count)
    for axis, (title, (pairs, label, better)) in zip(axes, sides.items()):
        names = {}
        for trunk, part in pairs.groupby("trunk", sort=False):
            names[tops[trunk]] = trunk
            for y, pair in enumerate(part.to_dict("records"), tops[trunk] + 1):
                names[y] = pair["label"]
                mark(axis, y, pair)
        ends = pairs.filter(["low", "high", "lowest_seed", "highest_seed"])
        low, high = min(0, ends.min().min()), max(0, ends.max().max())
        edge = 0.08 * (high - low)
        axis.axvline(0, color="black", lw=1.2)
        axis.axvspan(0, better * (high - low + 1), color=BETTER, alpha=0.1, lw=0)
        axis.set(title=title, xlim=(low - edge, high + edge), ylim=(count - 0.4, -0.6))
        axis.set_xlabel(f"{label}\n" + ("better →" if better > 0 else "← better"))
        axis.set_yticks([*names], names.values(), fontsize=9)
        for y, text in zip(names, axis.get_yticklabels()):
            text.set_fontweight("bold" if y in tops.values() else "normal")
        axis.tick_params(axis="y", length=0)
        axis.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
        axis.xaxis.set_major_formatter(lambda x, _: f"{round(x, 4) + 0:g}")
        axis.grid(axis="x", alpha=0.3)
    return figure


def places(tables):
    """Trunk -> the row of its name, with room below for its pairs in any of `tables`; all rows."""
    tops, count = {}, 0
    for trunk in dict.fromkeys(trunk for pairs in tables for trunk in pairs["trunk"]):
        tops[trunk] = count
        count += 1 + max((pairs["trunk"] == trunk).sum() for pairs in tables)
    return tops, count


def mark(axis, y, pair):
    """A pair's dot and interval at height `y`, and its seeds."""
    colour, where = COLOURS[pair["trunk"]], pair["difference"]
    look = dict(color=colour, fmt=MARKERS[pair["trunk"]], ms=5.5, capsize=3, lw=1.4)
    look["mfc"] = "white" if pair.get("hollow") else colour
    axis.errorbar(where, y, xerr=[[where - pair["low"]], [pair["high"] - where]], **look)
    seeds = [pair[name] for name in ("lowest_seed", "highest_seed") if name in pair]
    axis.plot(seeds, [y] * len(seeds), "|", color="black", ms=7, alpha=0.6)
