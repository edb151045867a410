"""What notebook 5 says of its tables, in sentences of Markdown."""


def cell(row):
    """A ratio and its interval: "0.734 [0.728, 0.740]"."""
    return f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"


def number(pair):
    """Difference and interval of a row of `tables.paired`: "-0.25 mm [-0.36, -0.14]"."""
    return f"{pair.mm:+.2f} mm [{pair.low:+.2f}, {pair.high:+.2f}]"


def how(pair):
    """Its verdict: "is HOW than the other"."""
    return "**neither clearly better nor worse**" if pair.decided == "no" else f"**{pair.decided}**"


def listed(pairs):
    """A line of a list for each verdict, with the methods that it holds for."""
    verdicts = {"better": "Better", "no": "Undecided", "worse": "Worse"}
    of = lambda verdict: ", ".join(f"*{name}*" for name in pairs.method[pairs.decided == verdict])
    return "\n".join(f"- {name}: {of(verdict) or 'none'}." for verdict, name in verdicts.items())


def of_iterations(iterations):
    """The best error of each curve, and when it is reached; networks that look once."""
    curves, points = [], []
    for name, part in iterations.groupby("method", sort=False):
        best, last = part.loc[part.ratio.idxmin()], part.iloc[-1]
        if len(part) > 1:
            later = f", {last.ratio:.3f} at the end" if last.ratio - best.ratio > 0.001 else ""
            reached = f"after {best.iteration} of {last.iteration}{later}"
            curves.append(f"*{name}* {best.ratio:.3f} {reached}")
        else:
            points.append(f"*{name}* {last.ratio:.3f}")
    return f"Best error, after how many iterations: {'; '.join(curves)}. One look: {'; '.join(points)}."


def of_protocols(table):
    """How the columns, a protocol each, order the methods beside the last, of true vertices."""
    agree = table.corr("spearman").iloc[-1, :-1]
    order = table.iloc[:, -1].sort_values().index
    return (
        f"On true vertices the order is {', '.join(f'*{name}*' for name in order)}. Rank correlation "
        "with it (1: the same order, -1: the reverse): "
        + ", ".join(f"{name} {value:.2f}" for name, value in agree.items())
        + "."
    )


def of_regions(regions, method):
    rows = regions[regions.method == method].sort_values("ratio").itertuples()
    parts = (f"{row.ratio:.2f} at the {row.region} ({row.mm:.1f} mm)" for row in rows)
    return f"Of the mean face's error *{method}* leaves {', '.join(parts)}."


def of_units(units):
    lost = units.unit[units.ratio_low > 1]
    known = (units.ratio_high < 1).sum()
    told = f"Best read are {', '.join(units.unit[:3])}. "
    told += f"{known} of {len(units)} movements are read better than by a still face. "
    return told + (
        f"For {' and '.join(lost)} it does worse than a still face." if len(lost) else ""
    )


def of_worlds(elsewhere, shift, method, rival):
    """What two methods leave of the mean face's error, and how far the first's average face moves.

    rival: has no average face of its own here
    """
    whole = elsewhere[elsewhere.error == "expressive"]
    mine, its = (whole[whole.method == name] for name in (method, rival))
    left = ", ".join(f"{row.ratio:.2f} ({row.world})" for row in mine.itertuples())
    fitted = ", ".join(f"{value:.2f}" for value in its.ratio)
    off = shift[shift.method == method].shift_mm
    return (
        f"Of the mean face's error in the expressive shape *{method}* leaves {left}; *{rival}*, in "
        f"the same order, {fitted}. The average "
        f"neutral shape that it reads lies {off.iloc[0]:.2f} mm off the true average of these people "
        f"in the world of training, and {off.iloc[-1]:.2f} mm with all three changes. Errors that "
        "differ from person to person average out here. What stays is a look of the pictures that "
        "the network takes for the shape of the people."
    )


def of_one_person(consistency, averages, method):
    found, several = consistency[method], averages[averages.method == method]
    reached = "reached" if found["high"] < 0.5 else "not reached"
    return (
        f"Two shapes that *{method}* reads of one person lie {found['ratio']:.2f} "
        f"[{found['low']:.2f}, {found['high']:.2f}] times as far apart as those of two people, so "
        f"the aim is {reached}. "
        f"{several.pictures.iloc[-1]} pictures instead of one take the error from "
        f"{several.ratio.iloc[0]:.3f} to {several.ratio.iloc[-1]:.3f}."
    )


def of_groups(groups):
    """Kinds of groups with two whose intervals lie apart, in the expressive shape."""
    told = []
    for _, part in groups[groups.error == "expressive"].groupby("kind", sort=False):
        if part.ratio_low.max() > part.ratio_high.min():
            each = (f"{row.group} {row.ratio:.3f}" for row in part.itertuples())
            told.append(f"- {', '.join(each)}")
    return "\n".join(told or ["- nowhere"])


def of_confidence(agreement):
    """From `steadiness.rank_correlations`."""
    both = agreement["landmark_error_percent, all faces"]
    whole = agreement["vertex_error_mm, whole faces"]
    return (
        "Rank correlation of predicted with found errors (1: the same order, 0: none): "
        f"{both:.2f} for landmarks over whole and spoilt faces, {whole:.2f} for millimetres over "
        "whole ones."
    )
