"""What the layers of several networks know: the tables and the faces behind notebook 3.

python -m e2far.pipeline.layer_study: trains the small networks, draws faces that none of them has
met, reads every layer of every subject, and writes reports/metrics/layers/*.csv and data/explore.
"""

import warnings
from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from e2far import data, losses
from e2far.analysis import counterfactuals, exploring, layers, photos, similarity
from e2far.analysis.features import matched_grids, measure_batch_norm
from e2far.analysis.subjects import END_TO_END, PEOPLE, RECOGNISER, TWIN, UNTRAINED
from e2far.analysis.subjects import Subject, calibrate
from e2far.facemodels import arkit, load_face_model
from e2far.files import extra
from e2far.network import E2FAR, Recognizer
from e2far.pipeline import jobs, params, record, trainings
from e2far.recogniser import Recogniser, weights_file
from e2far.weights import fill_trunk, load_network

with extra("study"):
    import joblib
    import pandas as pd

SIZE = 160  # px of the faces that are drawn; each subject gets them as it wants them
AHEAD = dict(yaw_deg=15.0, pitch_deg=8.0, roll_deg=8.0, without=("obstacles",))
MAPS = ("stage2", "stage3", "stage4", "stage5", "pool3", "pool4", "pool5")  # that heads may see
ALL_VIEWS = (RECOGNISER, TWIN, END_TO_END)  # the others are not asked about faces that look ahead


def main(profile=None):
    """The whole study, on real photos too where `real_photos` has left them."""
    p = params.load("layers", profile)
    for kind in (RECOGNISER, *p.more):
        open_subject(p, kind, 0)  # what is missing or misspelt is told before any training
    reached = train_networks(p)
    model = load_face_model(p.data / "facemodel" / "model.npz")
    draw_samples(p, model)
    kinds = {RECOGNISER: [0], TWIN: p.seeds, PEOPLE: p.seeds, END_TO_END: [0], UNTRAINED: [0]}
    kinds |= {kind: [0] for kind in p.more}
    subjects = [(kind, seed) for kind, seeds in kinds.items() for seed in seeds]
    views = ["looking ahead", "all poses", "people", "real photos"]
    views = [view for view in views if place(p, view).exists()]
    tasks = (joblib.delayed(study)(p, views, *subject) for subject in subjects)
    # Workers that keep much memory are replaced, which is no news.
    warnings.filterwarnings("ignore", "A worker stopped")
    found = joblib.Parallel(p.n_jobs)(tasks)
    write_tables(p, found, reached)
    sample = load_file(place(p, "looking ahead"))
    options = p.pack | dict(components=p.components, seed=p.seed)
    exploring.write(p.data / "explore", model, sample, **options)


# ---- networks ------------------------------------------------------------------------------------


def train_networks(p):
    """Train the recognisers of synthetic people, one a seed; finished ones are kept."""
    faces = data.Faces(p.data / "faces" / "train")
    settings = params.settings(params.load("training", p.profile), faces)
    shared = ("batch_size", "optimizer", "weight_decay", "clip", "precision", "augment")
    recognisers = {
        f"{PEOPLE} {seed}": dict(
            faces=p.data / "faces",
            folder=network_folder(p, PEOPLE, seed),
            network={key: settings.network[key] for key in ("image_size", "width", "batch_norm")},
            training={key: settings.recognition[key] for key in shared} | p.recogniser,
            seed=seed,
        )
        for seed in p.seeds
    }
    return jobs.run_many(recognisers, p.n_jobs, function=trainings.pretrain_job, resume=True)


def network_folder(p, kind, seed):
    return p.data / "analysis" / kind.replace(" ", "_") / str(seed)


def open_subject(p, kind, seed):
    """The subject of a kind and a seed; untrained ones are calibrated on drawn faces."""
    if kind == RECOGNISER:
        return Subject(kind, Recogniser().load(weights_file()), seed, aligned=True)
    shipped = load_network(p.weights / "default.safetensors")
    if kind == END_TO_END:
        return Subject(kind, shipped, seed)
    if kind in p.more:
        net = E2FAR(1, 1, fused=None, **p.more[kind]["network"])
        if p.more[kind]["weights"]:
            fill_trunk(net, p.more[kind]["weights"])
        return Subject(kind, net.eval(), seed)
    if kind == PEOPLE:
        path = network_folder(p, PEOPLE, seed) / "network.safetensors"
        return Subject(kind, load_network(path, Recognizer), seed)
    some = {key: rows[:128] for key, rows in load_file(place(p, "all poses")).items()}
    torch.manual_seed(seed)
    if kind == TWIN:
        subject = Subject(kind, Recogniser(), seed, aligned=True)
        calibrate(subject.network, subject.look(some) / 255)
    else:
        subject = Subject(kind, E2FAR(**shipped.config), seed)
        measure_batch_norm(subject.network, subject.look(some), len(some["image"]))
    return subject


# ---- faces ---------------------------------------------------------------------------------------


def draw_samples(p, model):
    """Faces that no network has met, a file for each view, and the counterfactual pairs."""
    synthesis = params.load("synthesis", p.profile)
    ranges = {key: getattr(synthesis, key) for key in params.ANGLES}
    draw = partial(counterfactuals.draw_sample, model, size=SIZE, seed=p.seed + 2, n_jobs=p.n_jobs)
    views = {
        "looking ahead": draw(p.people, **AHEAD),
        "all poses": draw(p.people, **ranges),
        "people": draw(p.named["people"], pictures=p.named["pictures"], split="repeated", **ranges),
    }
    pairs = counterfactuals.draw_pairs(model, p.pairs, SIZE, p.seed + 1, p.n_jobs, **ranges)
    views |= {f"pairs, {name}": sample for name, sample in pairs.items()}
    place(p, "").parent.mkdir(parents=True, exist_ok=True)
    for view, sample in views.items():
        save_file({key: x.contiguous() for key, x in sample.items()}, place(p, view))


def place(p, view):
    return p.data / "analysis" / "samples" / f"{view}.safetensors"


def targets_of(sample, model):
    """Target -> (n, T): what probes are asked for. Movements of one kind, left and right, go
    together: "unit jawOpen"."""
    found = {name: sample[name].numpy() for name in ("identity", "expression", "light", "albedo")}
    found["pose"] = sample["pose"][:, :6].numpy()
    units = {}
    for j, name in enumerate(model.unit_names):
        units.setdefault(f"unit {arkit.action_of(name)}", []).append(sample["units"][:, j].numpy())
    return found | {name: np.stack(x, 1) for name, x in units.items() if np.any(x)}


# ---- measuring -----------------------------------------------------------------------------------


def study(p, views, kind, seed):
    """Of one subject: kind, depths of layers, arguments for `Scores.add`, `measure_moves`."""
    torch.set_num_threads(1)
    subject = open_subject(p, kind, seed)
    views = [view for view in views if view != "looking ahead" or kind in ALL_VIEWS]
    rows = [row for view in views for row in judge(p, view, subject)]
    return kind, subject.layers, rows, measure_moves(p, subject)


def judge(p, view, subject):
    """Arguments for `Scores.add`, of all layers of a subject in a view."""
    sample = load_file(place(p, view))
    person = sample["person"].numpy()
    if view == "people":
        measure = layers.naming_errors
    else:
        measure = partial(layers.squared_errors, **questions(p, view, sample))
    known, grids = [*subject.layers], matched_grids(subject.network)
    asked, maps = dict(pooled=(known, grids)), [layer for layer in known if layer in MAPS]
    if view == "all poses":
        asked["heads, one grid"] = maps, dict.fromkeys(maps, grids[maps[-1]])
        if subject.name == RECOGNISER:
            asked["whole"] = maps, {}
    read = subject.readouts(sample, asked)
    if view == "all poses":
        read["heads"] = join(read["pooled"], maps)
        read["heads, one grid"] = join(read["heads, one grid"], maps)
    count = lambda readout: p.head_components if "heads" in readout else p.components
    asked = [
        (subject.seed, readout, layer, x)
        for readout, features in read.items()
        for layer, x in features.items()
    ]
    if view == "all poses" and subject.name == RECOGNISER:
        for layer, draws in layers.size_controls(read["pooled"]).items():
            asked += [(draw, "pooled", layer, x) for draw, x in draws.items()]
    return [
        (view, person, subject.name, seed, readout, layer)
        + (measure(x, person=person, components=count(readout)),)
        for seed, readout, layer, x in asked
    ]


def join(features, maps):
    """What linear heads see: single layers, and some of them together, "a + b" -> (n, d)."""
    *_, c, b, a = maps
    seen = [(name,) for name in maps] + [(b, a), (c, a), (c, b), (c, b, a)]
    seen += [("descriptor",)] * ("descriptor" in features)
    return {" + ".join(names): np.hstack([features[name] for name in names]) for names in seen}


def questions(p, view, sample):
    """What probes are asked for: dicts `targets` and `factors` of `layers.squared_errors`."""
    if view == "real photos":
        return dict(targets=photos.targets_of(sample), factors={})
    model = load_face_model(p.data / "facemodel" / "model.npz")
    factors = {
        name: losses.gram_factor(getattr(model, f"{name}_basis")[model.region])
        for name in ("identity", "expression")
    }
    return dict(targets=targets_of(sample, model), factors=factors)


def measure_moves(p, subject):
    """How far each factor of a picture moves each layer: (layer, factor) -> squared distances of
    features from those of the original picture (n,). Factor "another": an unrelated picture."""
    read = lambda name: subject.features(load_file(place(p, f"pairs, {name}")))
    original, found = read("original"), {}
    for factor in (*counterfactuals.FACTORS, "another"):
        for layer, x in read(factor).items():
            found[layer, factor] = similarity.squared_distance(original[layer], x)
    return found


def write_tables(p, found, reached):
    """reports/metrics/layers/: one CSV file for each of `tables`."""
    out, scores, depths, moves = p.reports / "metrics" / "layers", layers.Scores(), {}, {}
    out.mkdir(parents=True, exist_ok=True)
    for kind, known, rows, moved in found:
        depths[kind] = known
        moves.setdefault(kind, []).append(moved)
        for row in rows:
            scores.add(*row)
    table = scores.table(depths, p.bootstrap)
    tops = {kind: [*known][-1] for kind, known in depths.items()}
    is_head = table.readout.str.startswith("heads")
    linear = table[is_head & table.target.isin(["identity", "expression"])]
    linear = layers.compare_heads(scores, linear, p.bootstrap)
    table = table[~is_head & ~table.layer.str.endswith("at random")]
    peaks = layers.summarise_peaks(scores, table, tops, p.bootstrap)
    contrasts = layers.contrast_with_twin(scores, p.bootstrap)
    networks = pd.DataFrame(reached).T[["step", "images", "loss", "train_top1", "top1"]]  # no times
    networks = networks.rename_axis("network").reset_index()
    tables = dict(probes=table, peaks=peaks, linear=linear, contrasts=contrasts)
    tables["sizes"] = layers.beyond_size(scores, p.bootstrap)
    tables |= dict(moved=layers.relative_changes(moves, depths), networks=networks)
    for name, rows in tables.items():
        rows.round(4).to_csv(out / f"{name}.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    with record.timed(params.load("layers").data / "timings" / "layer_study.csv"):
        main()
