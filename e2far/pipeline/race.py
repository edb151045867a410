"""Everybody who runs in notebook 5: rivals are trained and fitted, all answers and errors kept.

An answer is a dict of identity, expression and, but for eos and the mean face, pose. It is about
all test pictures (what looks once) or about one picture each of some people (what iterates).
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from e2far import camera, data, evaluation, morphable
from e2far.benchmark import detector, iterative, landmark_fit
from e2far.facemodels import load_face_model
from e2far.files import extra
from e2far.network import VARIANTS
from e2far.pipeline import jobs, params, trainings
from e2far.weights import load_network, save_trunk

with extra("study"):
    import joblib

EXACT, REFINED_ON = "exact landmarks (oracle)", "2 px noise"  # landmarks that an oracle gives
FOUND = "landmarks detected"
TURNS = (1, 2, 5, 10, 20, 50)  # of eos, where its error is measured
FOLLOWED = (f"eos, {EXACT}", f"eos, {REFINED_ON}")  # after each of these
DETECTOR = params.ROOT / "data" / "detector.safetensors"  # of `make detector`


@dataclass(frozen=True)
class Race:
    """What every method answers, and how far off it is: in one order, that of the tables.

    answers: method -> an answer for each of its trainings
    steps: method -> iteration -> the same after that iteration, where a method has several
    landmarks: what fits are given -> (n, 68, 2) px of the pictures `fitted`
    errors: method -> `evaluation.measure` for each of its trainings
    """

    model: morphable.MorphableModel
    test: data.Faces
    fitted: torch.Tensor  # rows of the pictures that slow methods are given, one of a person
    networks: dict  # what looks once and is not trained for this race, name -> network
    shown: str  # that of them which sections on one network are about
    answers: dict
    steps: dict
    landmarks: dict
    errors: dict
    chosen: dict  # method -> the weights of its regularisation

    def answer(self, name):
        """The first training's answer to the pictures `fitted`."""
        found = self.answers[name][0]
        rows = slice(None) if len(found["identity"]) == len(self.fitted) else self.fitted
        return {key: values[rows] for key, values in found.items()}


def run(p, model, test, validation):
    """The Race of block `benchmark`, p. test, validation: `data.Faces` of these splits"""
    people = torch.unique(test.person)[: p.fitted]
    fitted = torch.stack([torch.nonzero(test.person == person)[0, 0] for person in people])
    step = max(1, len(validation) // p.validation)
    known = torch.arange(0, len(validation), step)[: p.validation]
    given = (test, fitted), (validation, known)
    networks = open_networks(p, model, test.image_size)
    shown = list(networks)[-1]
    designs, looks, detectors = train_rivals(p, test, networks["fusion"])
    still = dict(identity=torch.zeros(len(fitted), model.n_identity))
    still["expression"] = test.expression.mean(0).expand(len(fitted), -1)

    looked = {name: look_again(model, test, fitted, folders) for name, folders in looks.items()}
    seen = {"our landmarks": partial(seen_by, networks[shown], model)}
    seen |= {name: partial(detector.detect, network) for name, network in detectors.items()}
    points = {name: tuple(see(*where) for where in given) for name, see in seen.items()}
    points |= from_the_truth(p.noise_px, given)
    fits, eos_steps, chosen = fit_eos(p, model, points, given)
    refined, weights = refine(p, model, networks[shown], points, given)

    answers = {"mean face": [still]}
    answers |= {name: [evaluation.predict(one, test)] for name, one in networks.items()}
    answers |= {name: steps[max(steps)] for name, steps in looked.items()} | fits
    answers |= {name: steps[max(steps)] for name, steps in refined.items()}
    rows = lambda answer: fitted if len(answer["identity"]) == len(fitted) else None
    measure = lambda answer: evaluation.measure(model, test, answer, rows(answer))
    errors = {name: list(map(measure, trained)) for name, trained in answers.items()} | designs
    errors["mean face"] = [of_the_mean_face(errors["fusion"][0])]
    order = ("mean face", *networks, *designs, *looks, *fits, *refined)
    errors = {name: errors[name] for name in order}
    told = {name: steps for name, steps in refined.items() if FOUND not in name}
    steps, landmarks = looked | told | eos_steps, {name: on for name, (on, _) in points.items()}
    known = networks, shown, answers, steps, landmarks, errors
    return Race(model, test, fitted, *known, chosen | weights)


def of_the_mean_face(errors):
    """The errors of one constant guess, the average face of all that `errors` are about."""
    found = {name: values for name, values in errors.items() if "mean_face_mm" in name}
    same = {name.replace("mean_face_", ""): values for name, values in found.items()}
    return found | same | dict(person=errors["person"])


def open_networks(p, model, side):
    """The network of notebook 2, and the shipped one, if it sees such pictures and this model."""
    networks = {"fusion": load_network(p.data / "models" / "default.safetensors")}
    shipped, own = load_network(p.weights / "default.safetensors"), load_face_model()
    alike = shipped.image_size == side
    for basis in ("identity_basis", "expression_basis"):
        mine, its = getattr(model, basis), getattr(own, basis)
        alike = alike and mine.shape == its.shape and torch.allclose(its, mine, atol=0.02)
    return networks | ({"shipped": shipped} if alike else {})


# ---- rivals that are trained ---------------------------------------------------------------------


def train_rivals(p, faces, fusion):
    """Trains them from the trunk of `fusion`; those that are trained already are read.

    returns the designs, method -> errors of each training; the networks that look again and again,
    method -> folder of each training; and the landmark detectors, name -> network. That of
    DETECTOR, trained for as long as the shipped network, is there where that is.
    """
    rivals, settings = p.data / "rivals", params.settings(params.load("training", p.profile), faces)
    rivals.mkdir(parents=True, exist_ok=True)
    save_trunk(fusion, rivals / "trunk.safetensors")
    phase = dict(phases=[p.rivals["phase"]], batch_size=p.rivals["batch_size"])
    common = dict(faces=p.data / "faces", model=p.data / "facemodel" / "model.npz")
    common |= dict(training=settings.training | phase | dict(validate_every=10**9))
    common |= dict(trunk=rivals / "trunk.safetensors")

    def configs(name, network, **more):
        folder = rivals / name.replace(" ", "_")
        config = common | dict(network=settings.network | network) | more
        return [config | dict(seed=n, folder=folder / str(n)) for n in p.rivals["seeds"]]

    designs = {f"{name} (short)": configs(name, dict(fused=x)) for name, x in VARIANTS.items()}
    looks = {
        f"iterative, {count} look{'s' * (count > 1)} (short)": configs(
            f"iterative {count}", {}, iterations=count
        )
        for count in p.rivals["looks"]
    }
    detectors = {f"{FOUND} (short)": configs("detector", {})[:1]}
    kinds = (designs, trainings.train_job), (looks, iterative.iterative_job)
    for methods, function in (*kinds, (detectors, detector.detector_job)):
        each = {(name, one["seed"]): one for name, some in methods.items() for one in some}
        jobs.run_many(each, p.n_jobs, function=function, resume=True)
    errors = lambda config: dict(np.load(config["folder"] / "evaluation.npz"))
    folders = {name: [one["folder"] for one in some] for name, some in looks.items()}
    paths = {name: one["folder"] / "network.safetensors" for name, (one,) in detectors.items()}
    if DETECTOR.exists():
        paths[FOUND] = DETECTOR
    opened = {name: load_network(path, detector.LandmarkDetector) for name, path in paths.items()}
    return {name: [errors(one) for one in some] for name, some in designs.items()}, folders, opened


def look_again(model, test, fitted, folders):
    """Iteration -> the answer of each training to the pictures `fitted`; 0 is the mean face."""
    found = []
    for folder in folders:
        network = iterative.load_iterative(folder / "network.safetensors", model).eval()
        images = (data.to_float(test.gather(rows)["image"]) for rows in fitted.split(100))
        parts = zip(*(network.estimates(image) for image in images))
        join = lambda part: {name: torch.cat([one[name] for one in part]) for name in part[0]}
        found.append([join(part) for part in parts])
    return dict(enumerate(map(list, zip(*found))))


# ---- rivals that are given landmarks -------------------------------------------------------------


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
