"""Which layers should a head see? The trainings behind notebook 4, on four trunks.

python -m e2far.pipeline.head_study: after `layer_study`, whose networks are the trunks. Draws its
own faces, stores what the trunks answer for them, trains heads of one shape on every choice of
layers, first on a frozen trunk and then with the trunk tuned; writes heads.csv and pairs.csv in
reports/metrics/layers.
"""

import numpy as np
import torch

from e2far import data
from e2far.analysis.chips import cut_chips
from e2far.analysis.subjects import END_TO_END, PEOPLE, RECOGNISER, TWIN
from e2far.evaluation import bootstrap_ratio
from e2far.files import extra
from e2far.network import E2FAR
from e2far.pipeline import jobs, layer_study, params, record, trainings
from e2far.recogniser import weights_file
from e2far.synthesis import shards
from e2far.weights import save_trunk

with extra("study"):
    import pandas as pd


# What the expression head sees; identity and pose are read from the last layer in all. MIDDLE and
# LAST stand for a trunk's own names, see LAYERS.
DESIGNS = {
    "last": ("LAST",),
    "control": ("LAST", "LAST"),
    "middle": ("MIDDLE",),
    "middle twice": ("MIDDLE", "MIDDLE"),
    "fusion": ("MIDDLE", "LAST"),
    "coarse fusion": ("MIDDLE", "LAST"),  # the same head; the layer loses its finer grid (`coarse`)
}
PAIRS = {
    "does an earlier layer help? middle - control": ("middle", "control"),
    "the same with plain heads: middle - last": ("middle", "last"),
    "the same through the fusion-CNN: middle twice - control": ("middle twice", "control"),
    "is it the finer grid? fusion - coarse fusion": ("fusion", "coarse fusion"),
    "an earlier layer on the last one's grid: coarse fusion - control": (
        "coarse fusion",
        "control",
    ),
    "does fusing add? fusion - middle": ("fusion", "middle"),
    "the same with the size of the head held: fusion - middle twice": ("fusion", "middle twice"),
    "what the paper compares: fusion - last": ("fusion", "last"),
    "the paper's design and its control: fusion - control": ("fusion", "control"),
    "size of the head: control - last": ("control", "last"),
}
LAYERS = {  # trunk -> its MIDDLE and LAST
    RECOGNISER: ("stage4", "stage5"),
    TWIN: ("stage4", "stage5"),
    PEOPLE: ("pool4", "pool5"),
    END_TO_END: ("pool4", "pool5"),
}
TUNED = {RECOGNISER: "tuned_large", PEOPLE: "tuned"}  # trunk -> its phase in params.yaml
VARIED = (TWIN, PEOPLE)  # a trunk a seed; of the others there is one, and seeds vary the heads


def main(profile=None):
    """Train all heads, or take up what is there, and write the tables."""
    p = params.load("heads", profile)
    for kind in LAYERS:  # what is missing or misspelt is told before any training
        E2FAR(1, 1, **config(p, kind, "fusion", p.seeds[0])["network"])
    draw_chips(p)
    found = []
    for kind in LAYERS:
        configs = {
            (design, seed): config(p, kind, design, seed) for design in DESIGNS for seed in p.seeds
        }
        done = [jobs.is_finished(job, trainings.variant_job) for job in configs.values()]
        if not all(done):
            stores = [features_of(p, kind, seed) for seed in p.seeds]
            stores = {job["folder"]: job for job in stores}
            jobs.run_many(stores, p.n_jobs, function=trainings.features_job)
        jobs.run_many(configs, p.n_jobs, function=trainings.variant_job, resume=True)
        for path in folder(p, kind).glob("features*/*.safetensors"):
            path.unlink()
        found += [errors_of(job, kind, *key) for key, job in configs.items()]
    write_tables(p, pd.concat(found))


def folder(p, kind, *names):
    return p.data.joinpath("heads", kind.replace(" ", "_"), *map(str, names))


# ---- faces and trunks ----------------------------------------------------------------------------


def draw_chips(p):
    """Faces as the recogniser wants them, in splits "train" and "validation" of a folder."""
    synthesis = params.load("synthesis", p.profile)
    options = {name: getattr(synthesis, name) for name in ("n_jobs", *params.ANGLES)}
    large, chips = (p.data / "heads" / name for name in ("large", "chips"))
    model = p.data / "facemodel" / "model.npz"
    for split, people in dict(train=p.people, validation=p.judged).items():
        size = dict(size=layer_study.SIZE, shard_size=500)
        shards.write_split(model, large, split, people, 2, seed=p.seed + 5, **size, **options)
        faces = data.Faces(large / split)
        for number, rows in enumerate(torch.arange(len(faces)).split(500)):
            columns = faces.gather(rows)
            cut = cut_chips(columns["image"], columns["landmarks"]).permute(0, 2, 3, 1)
            data.write_shard(data.shard_path(chips / split, number), columns | dict(image=cut))
        data.write_index(chips / split, len(faces), 500)


def network_of(p, kind):
    """Arguments of E2FAR for heads on a trunk of `kind`, but for what they see."""
    if kind in (RECOGNISER, TWIN):
        return dict(trunk="dlib", image_size=150, width=p.width, batch_norm="heads")
    known = layer_study.open_subject(params.load("layers", p.profile), kind, p.seeds[0]).network
    return {key: known.config[key] for key in ("trunk", "image_size", "width", "batch_norm")}


def trunk_of(p, kind, seed):
    """File of a trunk."""
    if kind == RECOGNISER:
        return weights_file()
    path = folder(p, kind, f"{own_name('trunk', kind, seed)}.safetensors")
    if not path.exists():
        subject = layer_study.open_subject(params.load("layers", p.profile), kind, seed)
        net = E2FAR(1, 1, **network_of(p, kind) | dict(fused=None))
        trunk = subject.network if subject.aligned else subject.network.trunk
        net.trunk.load_state_dict(trunk.state_dict())
        save_trunk(net, path)
    return path


def own_name(name, kind, seed):
    return f"{name}_{seed}" if kind in VARIED else name


# ---- trainings -----------------------------------------------------------------------------------


def config(p, kind, design, seed):
    """Arguments of `trainings.variant_job` for heads on a trunk."""
    middle, last = LAYERS[kind]
    sees = tuple(dict(MIDDLE=middle, LAST=last)[name] for name in DESIGNS[design])
    phases = dict(frozen=p.frozen)
    if kind in TUNED and design in p.tuned_designs:
        phases["tuned"] = getattr(p, TUNED[kind])
    aligned = kind in (RECOGNISER, TWIN)
    return dict(
        folder=folder(p, kind, design.replace(" ", "_"), seed),
        faces=p.data / "heads" / ("chips" if aligned else "large"),
        model=p.data / "facemodel" / "model.npz",
        network=network_of(p, kind) | dict(fused=sees),
        trunk=trunk_of(p, kind, seed),
        features=folder(p, kind, own_name("features", kind, seed)),
        phases=phases,
        coarse=design == "coarse fusion",
        # Choice: a chip says nothing about the pose in the photo, so pose is not asked for.
        training=p.training | dict(pose_weight=0.0 if aligned else p.training["pose_weight"]),
        seed=seed,
        test="validation",
    )


def features_of(p, kind, seed):
    """Arguments of `trainings.features_job` for the trunk of a kind and a seed."""
    job = config(p, kind, "fusion", seed)
    return {key: job[key] for key in ("faces", "trunk", "network", "test")} | dict(
        folder=job["features"], layers=LAYERS[kind], limit=p.stored
    )


# ---- tables --------------------------------------------------------------------------------------


def errors_of(job, kind, design, seed):
    """Errors of a job's heads, a row for each phase, error and picture (data frame)."""
    parts = []
    for phase in job["phases"]:
        errors = np.load(job["folder"] / f"{phase}.npz")
        for error in ("expression", "neutral"):
            columns = dict(
                picture=np.arange(len(errors["person"])),
                person=errors["person"],
                mm=errors[f"{error}_mm"],
                mean_face_mm=errors[f"{error}_mean_face_mm"],
            )
            names = dict(trunk=kind, phase=phase, design=design, seed=seed, error=error)
            parts.append(pd.DataFrame(columns).assign(**names))
    return pd.concat(parts)


def write_tables(p, errors):
    """reports/metrics/layers/: heads.csv, the ratio to the mean face's error of every head;
    pairs.csv, differences of designs, by a bootstrap over people of errors averaged over seeds;
    head_contrasts.csv, those of the recogniser less those of its untrained twin."""
    rows, pairs = [], []
    names = ["trunk", "phase", "error"]
    for key, part in errors.groupby(names, sort=False):
        about = dict(zip(names, key))
        for (design, seed), own in part.groupby(["design", "seed"], sort=False):
            ratio = own.mm.sum() / own.mean_face_mm.sum()
            rows.append(about | dict(design=design, seed=seed, ratio=ratio))
        mean = part.groupby(["design", "picture"])[["mm", "mean_face_mm", "person"]].mean()
        for question, (one, other) in PAIRS.items():
            if {one, other} <= set(part.design):
                less = mean.loc[one].mm - mean.loc[other].mm
                sizes, people = mean.loc[one].mean_face_mm, mean.loc[one].person
                found = bootstrap_ratio(less, sizes, people, p.bootstrap)
                by_seed = part.pivot_table("mm", "seed", "design", "sum")
                total = part[part.design == one].groupby("seed").mean_face_mm.sum()
                each = (by_seed[one] - by_seed[other]) / total
                pairs.append(
                    about
                    | dict(question=question, seeds=len(each))
                    | dict(zip(("difference", "low", "high"), found))
                    | dict(lowest_seed=each.min(), highest_seed=each.max())
                )
    out = p.reports / "metrics" / "layers"
    out.mkdir(parents=True, exist_ok=True)
    contrasts = contrast_with_twin(p, errors)
    for name, table in dict(heads=rows, pairs=pairs, head_contrasts=contrasts).items():
        table = pd.DataFrame(table).round(4)
        table.to_csv(out / f"{name}.csv", index=False, lineterminator="\n")


def contrast_with_twin(p, errors):
    """What each pair of designs changes on the recogniser, less what it changes on its untrained
    twin, frozen; errors averaged over seeds, and the two seeds furthest apart (list of rows)."""
    rows = []
    for error in ("expression", "neutral"):
        part = errors[(errors.phase == "frozen") & (errors.error == error)]
        mean = part.groupby(["trunk", "design", "picture"])[["mm", "mean_face_mm", "person"]].mean()
        about = mean.loc[RECOGNISER, "last"]
        seeds = part.groupby(["trunk", "design", "seed"])[["mm", "mean_face_mm"]].sum()
        ratio = seeds.mm / seeds.mean_face_mm
        for one, other in PAIRS.values():
            own, twin = (mean.mm[t, one] - mean.mm[t, other] for t in (RECOGNISER, TWIN))
            found = bootstrap_ratio(own - twin, about.mean_face_mm, about.person, p.bootstrap)
            row = dict(phase="frozen", target=error, contrast=f"{one} - {other}")
            row |= dict(zip(("value", "low", "high"), found))
            own, twin = (ratio[t, one] - ratio[t, other] for t in (RECOGNISER, TWIN))
            ends = dict(lowest_seed=own.min() - twin.max(), highest_seed=own.max() - twin.min())
            rows.append(row | ends)
    return rows


if __name__ == "__main__":
    with record.timed(params.load("heads").data / "timings" / "head_study.csv"):
        main()
