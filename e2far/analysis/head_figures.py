"""Figures of notebook 4: which layers a head should see."""

import numpy as np

from e2far.analysis.comparisons import FAINT, number
from e2far.analysis.subjects import END_TO_END, PEOPLE, RECOGNISER, TWIN, UNTRAINED
from e2far.plots import COLOURS, panels

MARKERS = {RECOGNISER: "o", TWIN: "s", PEOPLE: "^", END_TO_END: "D", UNTRAINED: "v"}
BETTER = "#009E73"  # of the half of an axis where the first of a pair is better


def levels(table, label):
    """What heads reach, by the layers that they see: a panel per target, a colour per trunk. Layers
    of one number, stage4 and pool4, share a row.

    table: rows of target, trunk, layer, value, low, high (data frame), where more is better
    """
    targets, trunks = (list(table[name].unique()) for name in ("target", "trunk"))
    table = table.assign(name=table["layer"].str.replace("stage|pool", "", regex=True))
    seen = sorted(set(table["name"]), key=lambda name: ("+" in name, name == "descriptor", name))
    names = [" / ".join(table["layer"][table["name"] == name].unique()) for name in seen]
    names = [name.replace("descriptor", "the 128 numbers") for name in names]
    size = dict(width=2.9, height=0.9 + 0.42 * len(seen), right=4.4, sharey=True)
    figure, axes = panels(len(targets), len(targets), **size)
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
        axis.set_yticks(range(len(seen)), names, fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_ylabel("layers that the head sees")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def differences(sides):
    """Pairs of heads: dots and 95 % intervals, a row each, those of a trunk below its name. The
    better side of zero is green; ticks mark the lowest and the highest seed. Pairs that explain
    nearly nothing have grey names. Those beyond the axis, see `reach`, have an arrow and numbers.

    sides: title -> (pairs of `comparisons`, what the axis shows, the sign that is better), a panel
    each, in which a trunk has the same place. A pair that is `hollow` has a hollow dot.
    """
    tops, count = places([pairs for pairs, *_ in sides.values()])
    figure, axes = panels(len(sides), len(sides), 9.2 / len(sides), 1.4 + 0.225 * count)
    for axis, (title, (pairs, label, better)) in zip(axes, sides.items()):
        low, high = reach(pairs)
        edge = 0.08 * (high - low)
        axis.set(title=title, xlim=(low - edge, high + edge), ylim=(count - 0.4, -0.6))
        axis.axvline(0, color="black", lw=1.2)
        axis.axvspan(0, better * (high - low + 1), color=BETTER, alpha=0.1, lw=0)
        names, looks = {}, {}
        for trunk, part in pairs.groupby("trunk", sort=False):
            names[tops[trunk]], looks[tops[trunk]] = trunk, dict(fontweight="bold")
            for y, pair in enumerate(part.itertuples(), tops[trunk] + 1):
                names[y] = pair.label
                looks[y] = dict(color="#888888" if pair.verdict == FAINT else "black")
                mark(axis, y, pair)
        axis.set_xlabel(f"{label}\n" + ("better →" if better > 0 else "← better"))
        axis.set_yticks([*names], names.values(), fontsize=9)
        for look, text in zip(looks.values(), axis.get_yticklabels()):
            text.set(**look)
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


def reach(pairs):
    """Lowest and highest value on the axis. A trunk whose pairs reach three times as far as those of
    all others may leave it, or no one could read the others."""
    ends = pairs.filter(["low", "high", "lowest_seed", "highest_seed"])
    trunks = ends.abs().max(axis=1).groupby(pairs["trunk"]).max().sort_values()
    if len(trunks) > 1 and trunks.iloc[-1] > 3 * trunks.iloc[-2]:
        ends = ends[pairs["trunk"] != trunks.index[-1]]
    return min(0, ends.min().min()), max(0, ends.max().max())


def mark(axis, y, pair):
    """A pair's dot and interval at height `y`, and its seeds; or an arrow at the axis' end."""
    colour, (left, right) = COLOURS[pair.trunk], axis.get_xlim()
    if pair.low < left or pair.high > right:
        end, arrow, side = (left, "<", 1) if pair.low < left else (right, ">", -1)
        axis.plot(end + side * 0.03 * (right - left), y, arrow, color=colour, ms=7)
        place = dict(xytext=(14 * side, 0), textcoords="offset points", va="center", fontsize=9)
        place["ha"] = "left" if side > 0 else "right"
        axis.annotate(number(pair), (end, y), color=colour, **place)
        return
    look = dict(color=colour, fmt=MARKERS[pair.trunk], ms=5.5, capsize=3, lw=1.4)
    look["mfc"] = "white" if getattr(pair, "hollow", False) else colour
    around = [[pair.difference - pair.low], [pair.high - pair.difference]]
    axis.errorbar(pair.difference, y, xerr=around, **look)
    if "lowest_seed" in pair._fields:
        seeds = [pair.lowest_seed, pair.highest_seed]
        axis.plot(seeds, [y, y], "|", color="black", ms=7, alpha=0.6)
