"""Figures of the speed appendix."""

from e2far.files import extra
from e2far.plots import COLOURS, STYLES, colour_of

with extra("study"):
    import matplotlib.pyplot as plt


def time_bars(tables, label, write="{:.2f}"):
    """Bars with their numbers, the first on top; lines reach from the lowest to the highest round.

    tables: title -> rows of name, median, low, high (data frames)    write: format of the numbers
    """
    names = list(dict.fromkeys(name for table in tables.values() for name in table["name"]))
    size = (9, 0.9 + 0.34 * len(names))
    figure, axes = plt.subplots(
        1, len(tables), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, table) in zip(axes[0], tables.items()):
        middle = table["median"].to_numpy()
        spread = [(middle - table["low"]).clip(0), (table["high"] - middle).clip(0)]
        places = [names.index(name) for name in table["name"]]
        look = dict(color=COLOURS["fusion"], error_kw=dict(lw=1, ecolor="#444444"))
        axis.barh(places, middle, 0.7, xerr=spread, **look)
        for place, value, high in zip(places, middle, table["high"]):
            near = dict(xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
            axis.annotate(write.format(value), (high, place), **near)
        axis.set(xlabel=label, title=title, axisbelow=True)
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1.1 * axes[0, 0].get_xlim()[1]))
    return figure


def error_against_time(table):
    """A curve for each method, a point for one look; lines reach over the interval at its end.

    table: rows of method, iteration, ratio, low, high, ms: error by the mean face's (data frame)
    The axis ends at the mean face. Where an iteration starts from it, that start is left out.
    """
    figure, axis = plt.subplots(figsize=(9.5, 4.6), layout="constrained")
    table = table[(table.iteration > 0) | (table.method == "refined from the network")]
    last = table.groupby("method").ratio.last()
    for i, method in enumerate(last.sort_values(ascending=False).index):
        rows, (line, marker) = table[table.method == method], STYLES[i % len(STYLES)]
        size, line = (4, line) if len(rows) > 1 else (9, "none")
        look = dict(color=colour_of(method), linestyle=line, lw=1.8)
        axis.plot(rows.ms, rows.ratio, marker=marker, markersize=size, label=method, **look)
        end = rows.iloc[-1]
        axis.plot([end.ms] * 2, [end.low, end.high], color=look["color"], lw=1)
    axis.axhline(1, color=COLOURS["mean face"], label="mean face")
    axis.set(xscale="log", xlabel="milliseconds a face, one thread", ylim=(0.58, 1.03))
    axis.set_ylabel("expressive shape,\nratio to the mean face's error")
    ticks = [tick for tick in (0.3, 1, 3, 10, 30) if tick <= 1.5 * table.ms.max()]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=10, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
