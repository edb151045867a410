"""Everybody who runs in notebook 5: rivals are trained and fitted, all answers and errors kept.

An answer is a dict of identity, expression and, but for eos and the mean face, pose. It is about
all test pictures (what looks once) or about one picture each of some people (what iterates).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from e2far import data, evaluation, morphable
from e2far.benchmark import detector, iterative, tables
from e2far.facemodels import load_face_model
from e2far.network import VARIANTS
from e2far.pipeline import jobs, params, trainings
from e2far.pipeline.given_landmarks import FOUND, fit_eos, from_the_truth, refine, seen_by
from e2far.weights import load_network, save_trunk

LOOKS = params.ROOT / "reports" / "metrics" / "looks.csv"  # table of `make looks`
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
    detectors: dict  # what landmarks are called -> the network that finds them

    def answer(self, name):
        """The first training's answer to the pictures `fitted`."""
        found = self.answers[name][0]
        rows = slice(None) if len(found["identity"]) == len(self.fitted) else self.fitted
        return {key: values[rows] for key, values in found.items()}


def run(p, model, test, validation):
    """The Race of block `benchmark`, p. test, validation: `data.Faces` of these splits"""
    fitted = one_each(test, p.fitted)
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
    return Race(model, test, fitted, *known, chosen | weights, detectors)


def one_each(faces, count):
    """Rows (n,) of one picture each of the first people."""
    people = torch.unique(faces.person)[:count]
    return torch.stack([torch.nonzero(faces.person == person)[0, 0] for person in people])


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


def race_looks(folder, profile="default"):
    """Write LOOKS: errors of networks that look once or again, trained in `folder` by looks_trial.

    And by how many mm more than "one look", a network without a rendering.
    """
    p = params.load("benchmark", profile)
    p.rivals = params.read()["looks_trial"]
    model = load_face_model(p.data / "facemodel" / "model.npz")
    test, fusion = data.Faces(p.data / "faces" / "test"), p.data / "models" / "default.safetensors"
    fitted = one_each(test, p.fitted)
    once, looks = train_looks(p, test, load_network(fusion), Path(folder))
    answers = {"one look": [evaluation.predict(one, test, fitted) for one in once]}
    for name, folders in looks.items():
        steps = look_again(model, test, fitted, folders)
        answers[name] = steps[max(steps)]
    measure = lambda answer: evaluation.measure(model, test, answer, fitted)
    errors = {name: list(map(measure, trained)) for name, trained in answers.items()}
    found = Race(model, test, fitted, {}, "one look", answers, {}, {}, errors, {}, {})
    more = tables.paired(found, found.shown, p.bootstrap).drop(columns=["than", "handed"])
    table = tables.errors_of_all(found, p.bootstrap)
    table = table.merge(more, "left", ["method", "error"], suffixes=("", "_more"))
    table.round(4).to_csv(LOOKS, index=False)


# ---- rivals that are trained ---------------------------------------------------------------------


def train_rivals(p, faces, fusion):
    """Trains them from the trunk of `fusion`; those that are trained already are read.

    returns the designs, method -> errors of each training; the networks that look again and again,
    method -> folder of each training; and the landmark detectors, name -> network. That of
    DETECTOR, from the trunk of the shipped network, is there where pictures have its size.
    """
    configs = rival_configs(p, faces, fusion, p.data / "rivals")
    designs = {f"{name} (short)": configs(name, dict(fused=x)) for name, x in VARIANTS.items()}
    looks = {f"{name} (short)": some for name, some in look_configs(p, configs).items()}
    detectors = {f"{FOUND} (short)": configs("detector", {})[:1]}
    kinds = (designs, trainings.train_job), (looks, iterative.iterative_job)
    for methods, function in (*kinds, (detectors, detector.detector_job)):
        each = {(name, one["seed"]): one for name, some in methods.items() for one in some}
        jobs.run_many(each, p.n_jobs, function=function, resume=True)
    errors = lambda config: dict(np.load(config["folder"] / "evaluation.npz"))
    folders = {name: [one["folder"] for one in some] for name, some in looks.items()}
    paths = {name: one["folder"] / "network.safetensors" for name, (one,) in detectors.items()}
    paths[FOUND] = DETECTOR
    opened = {name: load_network(path, detector.LandmarkDetector) for name, path in paths.items()}
    if opened[FOUND].image_size != faces.image_size:
        del opened[FOUND]
    return {name: [errors(one) for one in some] for name, some in designs.items()}, folders, opened


def train_looks(p, faces, fusion, folder):
    """Trains a network that looks once, and those that look again, in `folder`.

    returns the networks of the first, and method -> folder of each training
    """
    configs = rival_configs(p, faces, fusion, folder)
    once, looks = configs("one look", dict(fused=VARIANTS["fusion"])), look_configs(p, configs)
    methods = {"one look": (once, trainings.train_job)}
    methods |= {name: (some, iterative.iterative_job) for name, some in looks.items()}
    for some, function in methods.values():
        each = {one["seed"]: one for one in some}
        jobs.run_many(each, p.n_jobs, function=function, resume=True)
    networks = [load_network(one["folder"] / "network.safetensors") for one in once]
    return networks, {name: [one["folder"] for one in some] for name, some in looks.items()}


def rival_configs(p, faces, fusion, folder):
    """What makes configs of `jobs.run_many`, one for each seed, of a network called `name`, with
    settings of its own: they start from the trunk of `fusion`."""
    settings = params.settings(params.load("training", p.profile), faces)
    folder.mkdir(parents=True, exist_ok=True)
    save_trunk(fusion, folder / "trunk.safetensors")
    phase = dict(phases=[p.rivals["phase"]], batch_size=p.rivals["batch_size"])
    common = dict(faces=p.data / "faces", model=p.data / "facemodel" / "model.npz")
    common |= dict(training=settings.training | phase | dict(validate_every=10**9))
    common |= dict(trunk=folder / "trunk.safetensors")

    def configs(name, network, **more):
        config = common | dict(network=settings.network | network) | more
        place = folder / name.replace(" ", "_")
        return [config | dict(seed=n, folder=place / str(n)) for n in p.rivals["seeds"]]

    return configs


def look_configs(p, configs):
    """Name -> configs of the networks that look again."""
    name = lambda count: f"iterative, {count} look{'s' * (count > 1)}"
    return {
        name(count): configs(f"iterative {count}", {}, iterations=count)
        for count in p.rivals["looks"]
    }


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
