"""What the speed appendix measures, on one thread, in CPU seconds: those of a clock if nothing else
runs. Tables have a row a thing that was measured: part, name, unit, median, low, high, repeats."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from unittest import mock

import numpy as np
import torch

from e2far import data, raster
from e2far.benchmark import iterative, landmark_fit
from e2far.files import extra
from e2far.synthesis import boxes, develop
from e2far.synthesis.painter import Painter
from e2far.synthesis.studio import Studio
from e2far.weights import load_network

with extra("study"):
    import pandas as pd

PICTURE = {  # part of making a picture -> the function that does it
    "z-buffer": (raster, "zbuffer"),
    "light on what is seen": (raster, "resolve"),
    "normals": (raster, "vertex_areas"),
    "colours at the vertices": (Painter, "albedo"),
    "light at the vertices": (Painter, "light"),
    "boxes behind and before": (boxes, "paint"),
    "blur, noise, tone": (develop, "develop"),
    "JPEG": (develop, "jpeg"),
    "numbers of the scene": (Studio, "draw_scene"),
    "numbers of the person": (Studio, "draw_person"),
    "shape, hair, glasses": (Studio, "dress"),
}


def table(part, unit, values):
    """values: name -> numbers, one a round"""
    names = dict(part=part, unit=unit)
    rows = [names | dict(name=name, **_spread(found)) for name, found in values.items()]
    return pd.DataFrame(rows)[["part", "name", "unit", "median", "low", "high", "repeats"]]


def _spread(found):
    return dict(median=np.median(found), low=min(found), high=max(found), repeats=len(found))


def rounds(functions, repeats):
    """Seconds of each of `functions`, name -> function, in each round but a first one. A round runs
    them all, so that a busy neighbour slows all alike."""
    seconds = {name: [] for name in functions}
    for number in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name] += [time.process_time() - start] * (number > 0)
    return seconds


def command_s(*words):
    """Seconds of the command `e2far`, from the start of Python to its end."""
    began, one_thread = sum(os.times()[2:4]), os.environ | dict(OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "e2far", *map(str, words)]
    subprocess.run(command, env=one_thread, check=True, capture_output=True)
    return sum(os.times()[2:4]) - began


# ---- the parts of a function ---------------------------------------------------------------------


def stopwatch(function, name, seconds):
    """`function`, adding what it takes to seconds[name], but for what has a stopwatch itself."""

    def run(*args, **options):
        start, before = time.process_time(), sum(seconds.values())
        try:
            return function(*args, **options)
        finally:
            inside = sum(seconds.values()) - before
            seconds[name] += time.process_time() - start - inside

    return run


def watched(parts, work):
    """Seconds of `work` in each of `parts`, name -> (module or class, function), and the rest."""
    seconds = dict.fromkeys([*parts, "the rest"], 0.0)
    with ExitStack() as stack:
        for name, (owner, function) in parts.items():
            slow = stopwatch(getattr(owner, function), name, seconds)
            stack.enter_context(mock.patch.object(owner, function, slow))
        stopwatch(work, "the rest", seconds)()
    return seconds


def parts_of(part, parts, work, repeats, count):
    """A table of milliseconds, for each of `count` items, in `parts` and the rest, the longest
    first, and in all."""
    found = pd.DataFrame([watched(parts, work) for _ in range(repeats + 1)][1:]) * 1e3 / count
    found = found.loc[:, found.max() > 0]
    order = found.median().sort_values(ascending=False).index
    return table(part, "ms", dict(found[order]) | dict(total=found.sum(axis=1)))


# ---- error against time --------------------------------------------------------------------------


def time_methods(iterations, clocks, n):
    """`iterations`, a row for each iteration of each method, with a column ms: until then, for a
    face. clocks: of `method_clocks`    n: faces"""
    iterations = iterations.assign(ms=np.nan)
    with torch.no_grad():
        for name, rows in iterations.groupby("method"):
            clock = clocks(name, rows.iteration)
            seconds = [np.median(iterative.one_by_one(one, n)[0], 0) for one in clock]
            iterations.loc[rows.index, "ms"] = 1e3 * np.concatenate(seconds)
    return iterations


def method_clocks(p, seed, model, faces, chosen, own):
    """(method, its iterations) -> functions for `iterative.one_by_one`, by notebook 5's files.

    p: of params.load    seed: of the rivals    faces: columns of data.Faces, and image_size
    chosen: method -> weights of its fit    own: the network whose answers are refined
    """
    rival = lambda name: p.data / "rivals" / name / str(seed) / "network.safetensors"
    paths = {
        "fusion": p.data / "models" / "default.safetensors",
        "shipped": p.weights / "default.safetensors",
        "fusion (short)": rival("fusion"),
    }
    one, images = lambda i: slice(i, i + 1), data.to_float(faces["image"])

    def clocks(name, iterations):
        if name in paths:
            network = load_network(paths[name])
            return [lambda i: iter([network(images[one(i)])])]
        if name.startswith("iterative"):
            again = iterative.load_iterative(rival(f"iterative_{name.split()[1]}"), model)
            return [lambda i: again.estimates(images[one(i)])]
        if name.startswith("refined"):
            from_network = name.endswith("network")
            network = load_network(paths[own]) if from_network else lambda image: None
            settings = dict(iterations=int(iterations.max())) | chosen[name]
            marks = lambda i: (faces["landmarks"][one(i)], faces["image_size"])
            return [
                lambda i: landmark_fit.refine(model, *marks(i), network(images[one(i)]), **settings)
            ]
        fits = [
            landmark_fit.LandmarkFitter(model, iterations=int(n), **chosen[name])
            for n in iterations
        ]
        return [lambda i, fit=fit: iter([fit(faces["landmarks"][one(i)])]) for fit in fits]

    return clocks
