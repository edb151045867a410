"""Judges a reconstructor on a data set of the user's own: NoW, Feng, REALY, landmarks by yaw.

samples = open_dataset("now", folder)
judged = judge.judge("now", samples, Reconstructor.from_pretrained(), n_jobs=4, progress=True)
print(judge.table(judged))  # or of a part: judged[judged.challenge == "selfie"]
"""

import itertools
import re
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from e2far import evaluation
from e2far.benchmark import metrics, protocols
from e2far.benchmark.datasets.now import write_submission
from e2far.files import extra

with extra("study"):
    import joblib
    import pandas as pd

# Choice: what is laid on the scan is what it shows. NoW's is of the person at rest, as we take
# Florence's to be (not verified); the others' shows the picture's expression.
NEUTRAL_SCANS = ("now", "florence")
# What the owner varied, for tables of a part; others vary angles or sessions.
VARIED = dict(now="challenge", bu3dfe="expression", florence="situation", realy="pictures")
SEVEN = list(metrics.NOW_LANDMARKS)
# What the owners of a protocol report of the distances of all pictures.
NOW = ("median", "mean", "std")
POOLED = {"NoW": NOW, "NoW, metrical": NOW, "Feng": ("root mean square",)}
# Pooled distances are counted in bins: 10^8 of them are too many to keep and to draw from.
STEP_MM, BINS = 0.005, 4000


def judge(name, samples, reconstructor, every=1, n_jobs=1, progress=False):
    """A DataFrame with a row for each picture and method, "network" and "mean face".

    name: what `samples` is called    reconstructor: (path, box or None) -> `face.Face`, with .model
    every: every n-th picture    n_jobs: processes (1 on a GPU)

    Columns: picture, person, what was varied, method, failed (the reason, else None; one row then),
    `pooled` for `table`, and the picture's errors: "NoW", "NoW, metrical" (median mm), "Feng" (root
    mean square mm), REALY's regions (mm), "NME" (percent).
    # Choice: only triangles of `Face.region` are the predicted surface; holes at the eyes and lips
    # are charged to all methods alike. The mean face, neutral, is seen by the network's camera.
    """
    chosen = samples[::every]
    scans = itertools.groupby(chosen, key=lambda item: item.scan_name or item.name)
    found = joblib.Parallel(n_jobs, return_as="generator")(
        joblib.delayed(judge_scan)(
            list(items), reconstructor, name in NEUTRAL_SCANS, samples.folders
        )
        for _, items in scans
    )
    pictures = itertools.chain.from_iterable(found)
    bar = tqdm(pictures, total=len(chosen), unit="picture", disable=not progress)
    return pd.DataFrame([row for rows in bar for row in rows])


def judge_scan(items, reconstructor, neutral, folders=()):
    """Rows of `judge`, as dicts, for each of the pictures that share a scan.

    neutral: it is of the face at rest    folders: left out of what a failure says
    """
    rows, mean_face = [], {}
    for item in items:
        row = dict(picture=item.name, person=item.person) | item.facts
        try:
            row |= item.condition
            errors = measure(item, reconstructor, neutral, mean_face)
            rows.append([row | dict(method=m, failed=None) | own for m, own in errors.items()])
        except (ValueError, OSError) as error:
            rows.append([row | dict(method="network", failed=failure(error, item, folders))])
    return rows


def measure(item, reconstructor, neutral, mean_face):
    """Method -> its errors in one picture; ValueError or OSError if it cannot be judged.

    mean_face: keeps that method's errors for the next picture of the same scan
    """
    if item.image is None:
        raise ValueError("the owner gives no picture")
    if not {"scan", "landmarks"} & set(item.sources):
        raise ValueError("the owner gives neither a scan nor landmarks")
    if "scan" in item.sources and "scan_landmarks7" not in item.sources:
        raise ValueError("the scan has no 7 landmarks: pick them, open_dataset(..., landmarks7)")
    face, model = reconstructor(item.image, item.box), reconstructor.model
    mean, landmarks = model.mean.cpu().numpy(), model.landmarks.cpu().numpy()
    if "scan" not in item.sources:
        seen = {"network": face.image_landmarks, "mean face": face.pose.project(mean[landmarks])}
        return {method: landmark_error(x, item.landmarks) for method, x in seen.items()}
    on_scan = realy_errors if "scan_regions" in item.sources else scan_errors
    skin = lambda shape: protocols.MarkedMesh(shape, face.region_triangles, shape[landmarks])
    errors = {"network": on_scan(skin(face.neutral_vertices if neutral else face.vertices), item)}
    mean_face.update(mean_face or on_scan(skin(mean), item))
    return errors | {"mean face": mean_face}


def realy_errors(prediction, item):
    """REALY's regions and "all", mm. prediction: a MarkedMesh with 68 keypoints"""
    scan = protocols.MarkedMesh(*item.scan, item.scan_points[:68])
    return protocols.realy_error(prediction, scan, item.scan_regions)


def scan_errors(prediction, item):
    """ "NoW", "NoW, metrical", "Feng", mm, and `pooled`. prediction: as of `realy_errors`"""
    vertices, triangles = item.scan
    mesh = prediction._replace(keypoints=prediction.keypoints[SEVEN])
    points = vertices[np.unique(triangles)]  # points of no triangle are no surface
    distances = protocols.scan_errors(mesh, points, item.scan_landmarks7)
    distances = dict(zip(POOLED, distances.values()))
    own = {protocol: float(np.median(d)) for protocol, d in distances.items()}
    own["Feng"] = float(np.sqrt(np.square(distances["Feng"]).mean()))
    return own | dict(pooled={protocol: histogram(d) for protocol, d in distances.items()})


def landmark_error(pred, true):
    """ "NME", percent, and `pooled`. pred, true: (68, 2) px"""
    pooled = dict(pred=np.float32(pred), true=np.float32(true))
    return dict(NME=float(metrics.nme(pred, true)), pooled=pooled)


def failure(error, item, folders):
    """What went wrong, in words that are the same for all pictures, without advice for commands."""
    text = " ".join(str(error).split()).split(": say where")[0]
    for folder in folders:
        text = re.sub(rf"{re.escape(folder)}\S*?(?=[:,;]?(\s|$))", "the file", text)
    return text.replace(item.image.name, "the picture") if item.image else text


def table(judged, bootstrap=2000, seed=0):
    """What `judge` found of n pictures, with 95 % intervals over people; then the failures."""
    rows = []
    for method, part in judged[judged.failed.isna()].groupby("method", sort=False):
        rows += [(method, *row) for row in summarise(part, bootstrap, seed)]
    for text, count in judged.failed.value_counts().items():
        n = judged.picture.nunique()
        rows.append(("network", f"failed: {text}", count, np.nan, np.nan, n, "pictures"))
    return pd.DataFrame(rows, columns="method measure value low high n unit".split())


def summarise(part, bootstrap, seed):
    """Yields (measure, value, low, high, n, unit) of one method's rows."""
    pooled = lambda key: np.stack([found[key] for found in part.pooled])
    for protocol in [name for name in POOLED if name in part]:
        found = pooled_intervals(pooled(protocol), part.person, bootstrap, seed)
        for name in POOLED[protocol]:
            yield f"{protocol}, {name}", *found[name], len(part), "mm"
    for region in [name for name in (*protocols.REALY_KEYPOINTS, "all") if name in part]:
        found = evaluation.bootstrap_interval(part[region], part.person, bootstrap, seed=seed)
        yield f"REALY, {region}", *found, len(part), "mm"
    if "NME" in part:
        points = pooled("pred"), pooled("true")
        by_yaw = protocols.nme_by_yaw(*points, part.yaw_deg, part.person, bootstrap, seed)
        for yaw, found in by_yaw.items():
            name = "mean of the bins" if yaw == "mean" else f"yaw {yaw} degrees"
            yield f"NME, {name}", *found, "%"


def histogram(distances):
    """Counts of `distances` (M,) mm in bins of STEP_MM and beyond, their sum, that of squares."""
    bins = np.minimum(distances / STEP_MM, BINS).astype(int)
    counts = np.bincount(bins, minlength=BINS + 1)
    return np.r_[counts, distances.sum(), np.square(distances).sum()].astype(np.float32)


def statistics(summed):
    """Name -> (...,) mm of distances whose added `histogram`s are (..., BINS + 3)."""
    cumulative = summed[..., :-2].cumsum(-1)
    n = cumulative[..., -1]
    mean, square = summed[..., -2] / n, summed[..., -1] / n
    middle = (2 * cumulative < n[..., None]).sum(-1)  # the bin that holds the median
    return {
        "median": STEP_MM * (middle + 0.5),
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0)),
        "root mean square": np.sqrt(square),
    }


def pooled_intervals(summed, person, bootstrap, seed):
    """Name -> (value, low, high) of pictures' histograms (n, BINS + 3); people are drawn whole."""
    people, index = np.unique(np.asarray(person), return_inverse=True)
    by_person = np.zeros((len(people), summed.shape[1]))
    np.add.at(by_person, index, summed)
    drawn = statistics(metrics.draw_people(len(people), bootstrap, seed) @ by_person)
    return {
        name: (float(value), *metrics.interval(drawn[name]))
        for name, value in statistics(by_person.sum(0)).items()
    }


def submit(samples, reconstructor, folder):
    """Write faces of "now-test" (neutral skin, mm) into `folder`; picture -> why it is missing."""
    failed, seven = {}, reconstructor.model.landmarks.cpu().numpy()[SEVEN]
    for item in samples:
        try:
            face = reconstructor(item.image, item.box)
        except (ValueError, OSError) as error:
            failed[item.name] = failure(error, item, samples.folders)
            continue
        used, triangles = np.unique(face.region_triangles, return_inverse=True)
        skin = face.neutral_vertices[used], triangles.reshape(-1, 3)
        write_submission(Path(folder) / item.name, *skin, face.neutral_vertices[seven])
    return failed
