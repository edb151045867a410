"""Rivals of notebook 5 that are given 68 landmarks: of the truth, or found in the picture."""

from functools import partial

import torch

from e2far import camera, evaluation, morphable
from e2far.benchmark import landmark_fit
from e2far.files import extra

with extra("study"):
    import joblib

EXACT, REFINED_ON = "exact landmarks (oracle)", "2 px noise"  # landmarks that an oracle gives
FOUND = "landmarks detected"
TURNS = (1, 2, 5, 10, 20, 50)  # of eos, where its error is measured
FOLLOWED = (f"eos, {EXACT}", f"eos, {REFINED_ON}")  # after each of these


def noisy(faces, rows, noise_px, seed):
    """Landmarks (n, 68, 2) px with normal noise of `noise_px` pixels of a 224-px crop."""
    landmarks, generator = faces.landmarks[rows], torch.Generator().manual_seed(seed)
    noise = torch.randn(landmarks.shape, generator=generator)
    return landmarks + noise_px * faces.image_size / 224 * noise


def seen_by(network, model, faces, rows):
    """The 68 landmarks (n, 68, 2) px that a network finds in pictures."""
    guess = evaluation.predict(network, faces, rows)
    points = morphable.landmarks_mm(model, guess["identity"], guess["expression"])
    return camera.weak_perspective(points, *camera.decode_pose(guess["pose"], faces.image_size))


def from_the_truth(noise_px, given):
    """Name -> landmarks (n, 68, 2) px of each of `given`: the true ones, and those with noise."""
    name = lambda px: f"{px:g} px noise" if px else EXACT
    return {
        name(px): tuple(noisy(*where, px, seed) for where, seed in zip(given, (2, 1)))
        for px in noise_px
    }


def fit_eos(p, model, points, given):
    """eos on each of `points`: answers and steps as in `Race`, and weights.

    points: name -> landmarks of each of `given`    given: (faces, rows) to be judged, and to choose
    the weights on
    """
    (_, _), (validation, known) = given
    truth = validation.identity[known], validation.expression[known]
    run = joblib.Parallel(p.n_jobs)
    fit, fit_all = joblib.delayed(landmark_fit.fit), joblib.delayed(landmark_fit.fit_landmarks)
    found = run(fit_all(model, on, (of, *truth), p.lambdas) for on, of in points.values())
    found = {f"eos, {name}": one for name, one in zip(points, found)}
    chosen, steps = {name: weights for name, (_, weights) in found.items()}, {}
    for name in FOLLOWED:
        on = points[name.removeprefix("eos, ")][0]
        fits = run(fit(model, on, iterations=turns, **chosen[name]) for turns in TURNS)
        steps[name] = {turns: [one] for turns, one in zip(TURNS, fits)}
    return {name: [answer] for name, (answer, _) in found.items()}, steps, chosen


def refine(p, model, network, points, given):
    """Our refinement of the mean face and of the network's answer: steps, and weights."""
    (test, _), (validation, known) = given
    mean, own = (None, None), tuple(evaluation.predict(network, *where) for where in given)
    fits = {f"refined, {name}": (mean, on) for name, on in points.items() if FOUND in name}
    fits["refined from the mean face"] = mean, points[REFINED_ON]
    fits["refined from the network"] = own, points[REFINED_ON]
    steps, chosen = {}, {}

    def refined(landmarks, start, weights):
        settings = dict(iterations=p.refine["iterations"]) | weights
        return list(landmark_fit.refine(model, landmarks, test.image_size, start, **settings))

    def error_mm(weights, on, start):
        guess = refined(on, start, weights)[-1]
        return evaluation.measure(model, validation, guess, known)["expressive_mm"].mean()

    for name, ((start, known_start), (on, of)) in fits.items():
        error = partial(error_mm, on=of, start=known_start)
        chosen[name] = landmark_fit.least(error, p.refine["lambdas"])
        found = refined(on, start, chosen[name])
        steps[name] = {iteration: [one] for iteration, one in enumerate(found)}
    return steps, chosen
