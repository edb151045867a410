"""Judges a reconstructor on a data set of the user's own, by the protocols that face reconstruction is published with: NoW, Feng, REALY, 68 landmarks by yaw. Beside it stands the mean face.

    samples = open_dataset("now", folder)
    judged = judge.judge("now", samples, Reconstructor.from_pretrained(), n_jobs=4, progress=True)       # a face on a scan of 80,000 points takes one core about 20 s, nearly all of it NoW's alignments; the mean face is laid on each scan once
    print(judge.table(judged))                                                                           # judged[judged.challenge == "selfie"] for a part of it

Never run on the real data sets, only on tiny files in the same formats (tests/test_dataset_evaluation.py).
"""

import itertools
import re

import joblib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from e2far import evaluation
from e2far.benchmark import metrics, protocols
from e2far.benchmark.datasets.now import write_submission as write_now_submission

# Choice: what is laid on the scan is what the scan shows. NoW's is of the person at rest, and so we take Florence's, whose pictures come from videos (not verified from a source); the others'
# scan was taken with the picture, or the picture drawn from it, so that it shows the picture's expression.
NEUTRAL_SCANS = ("now", "florence")
SEVEN = list(metrics.NOW_LANDMARKS)
REALY_KEYPOINTS = protocols.REALY_KEYPOINTS | {
    "cheek": protocols.REALY_KEYPOINTS["cheeks"]
}  # the owner's name of the region
POOLED = {
    "NoW": ("median", "mean", "std"),
    "NoW, metrical": ("median", "mean", "std"),
    "Feng": ("root mean square",),
}  # protocol -> what its owners report of the distances of all pictures
STEP_MM, BINS = (
    0.005,
    4000,
)  # pooled distances are counted in bins: 10^8 of them are too many to keep and to draw from


# A picture ---------------------------------------------------------------------------------------------------------------------------------------


def judge(name, samples, reconstructor, limit=None, every=1, n_jobs=1, progress=False):
    """Judge `reconstructor` on the pictures of `samples`, the data set called `name`: a DataFrame with a row for each picture and method, "network" and "mean face".

    reconstructor: called with a picture's path and box (None: to be detected) it returns a `face.Face`; `reconstructor.model` is its MorphableModel
    every, limit: every n-th picture, and at most so many    n_jobs: processes (1 if the reconstructor is on a GPU)

    Columns: picture, person, what was varied (`Item.condition`), method, failed (the reason, else None; such a picture has one row), the picture's own errors, and `pooled`, what `table` needs.
    Errors: "NoW", "NoW, metrical" (median mm), "Feng" (root mean square mm) where there is a scan with 7 landmarks; REALY's regions and "all" (mm) where the scan has regions; "NME" (percent).
    # Choice: only triangles of `Face.region` are the predicted surface; holes at the eyes and lips are charged to all methods alike. The mean face is seen by the network's camera, and is neutral.
    """
    chosen = range(0, len(samples), every)[:limit]
    places = [str(place) for place in (samples.landmarks7, samples.folder) if place]
    scans = itertools.groupby(
        (samples[i] for i in chosen), key=lambda item: item.scan_name or item.name
    )
    found = joblib.Parallel(n_jobs, return_as="generator")(
        joblib.delayed(judge_scan)(list(items), reconstructor, name in NEUTRAL_SCANS, places)
        for _, items in scans
    )
    pictures = tqdm(
        itertools.chain.from_iterable(found),
        total=len(chosen),
        unit="picture",
        disable=not progress,
    )
    return pd.DataFrame([row for rows in pictures for row in rows])


def judge_scan(items, *arguments):
    """`judge_one` of each of the pictures that share a scan, on which the mean face is judged once."""
    known = {}
    return [judge_one(item, *arguments, known) for item in items]


def judge_one(item, reconstructor, neutral, places=(), known=None):
    """Rows of `judge`, as dicts. neutral: the scan is of the face at rest    places: folders to leave out of what a failure says    known: as of `measure`"""
    row = dict(picture=item.name, person=item.person) | item.facts
    try:
        row |= item.condition
        errors = measure(item, reconstructor, neutral, known)
    except (ValueError, OSError) as error:
        return [row | dict(method="network", failed=reason(error, item, places))]
    return [
        row | dict(method=method, failed=None) | its_errors for method, its_errors in errors.items()
    ]


def measure(item, reconstructor, neutral, known=None):
    """Method -> its errors in one picture, by the names of `judge`. Raises ValueError or OSError if the picture cannot be judged.

    known: a dict that keeps the mean face's errors for the next picture of the same scan
    """
    known = {} if known is None else known
    if item.image is None:
        raise ValueError("the owner gives no picture")
    if not {"scan", "landmarks"} & set(item.sources):
        raise ValueError("the owner gives neither a scan nor landmarks")
    if "scan" in item.sources and "scan_landmarks7" not in item.sources:
        raise ValueError(
            "the scan has no 7 landmarks: pick them with MeshLab and name their folder, open_dataset(..., landmarks7=folder)"
        )
    face, model = reconstructor(item.image, item.box), reconstructor.model
    mean, landmarks = model.mean.cpu().numpy(), model.landmarks.cpu().numpy()
    if "scan" not in item.sources:
        true = item.landmarks
        return {
            method: landmark_errors(pred, true)
            for method, pred in (
                ("network", face.image_landmarks),
                ("mean face", face.pose.project(mean[landmarks])),
            )
        }
    scan, seven, regions, triangles = (
        item.scan,
        item.scan_landmarks7,
        item.scan_regions,
        face.region_triangles,
    )
    shapes = {"network": face.neutral_vertices if neutral else face.vertices, "mean face": mean}
    shapes = {method: x for method, x in shapes.items() if method not in known}
    if regions:
        points = item.scan_points[:68]
        errors = {
            method: protocols.realy_error(
                x, triangles, x[landmarks], *scan, points, regions, REALY_KEYPOINTS
            )
            for method, x in shapes.items()
        }
    else:
        points = scan[0][np.unique(scan[1])]  # points of no triangle are no surface
        errors = {
            method: scan_errors(x, triangles, x[landmarks[SEVEN]], points, seven)
            for method, x in shapes.items()
        }
    known.setdefault("mean face", errors.get("mean face"))
    return errors | known


def scan_errors(*arguments):
    """ "NoW", "NoW, metrical", "Feng" and `pooled`. arguments: those of `metrics.now_error`"""
    distances = {
        "NoW": metrics.now_error(*arguments),
        "NoW, metrical": metrics.now_error(*arguments, metrical=True),
        "Feng": protocols.feng_error(*arguments),
    }
    own = {
        protocol: float(np.sqrt(np.square(d).mean()) if protocol == "Feng" else np.median(d))
        for protocol, d in distances.items()
    }
    return own | dict(pooled={protocol: sums(d) for protocol, d in distances.items()})


def landmark_errors(pred, true):
    """ "NME", percent, and `pooled`. pred, true: (68, 2) px"""
    return dict(
        NME=float(metrics.nme(pred, true)),
        pooled=dict(pred=np.float32(pred), true=np.float32(true)),
    )


def reason(error, item, places):
    """What went wrong, in words that are the same for all pictures, without advice that the command line would take."""
    text = re.sub(
        "|".join(rf"{re.escape(place)}\S*?(?=[:,;]?(\s|$))" for place in places) or "$^",
        "the file",
        " ".join(str(error).split()).split(": say where")[0],
    )
    return text.replace(item.image.name, "the picture") if item.image else text


# All pictures ------------------------------------------------------------------------------------------------------------------------------------


def table(judged, bootstrap=2000, seed=0):
    """Rows (method, measure, value, low, high, n, unit) of what `judge` found, with 95 % bootstrap intervals over people; n pictures. Then a row for each reason of failures: value of n pictures."""
    rows, tried = [], judged.picture.nunique()
    for method, part in judged[judged.failed.isna()].groupby("method", sort=False):

        def add(measure, unit, value, low, high, n=len(part), method=method):
            rows.append(
                dict(
                    method=method, measure=measure, value=value, low=low, high=high, n=n, unit=unit
                )
            )

        for protocol in [column for column in POOLED if column in part]:
            found = pooled_intervals(
                np.stack([pooled[protocol] for pooled in part.pooled]), part.person, bootstrap, seed
            )
            for statistic in POOLED[protocol]:
                add(f"{protocol}, {statistic}", "mm", *found[statistic])
        for region in [
            column for column in ("nose", "mouth", "forehead", "cheek", "all") if column in part
        ]:
            add(
                f"REALY, {region}",
                "mm",
                *evaluation.bootstrap_interval(part[region], part.person, bootstrap, seed=seed),
            )
        if "NME" in part:
            pred, true = (
                np.stack([pooled[key] for pooled in part.pooled]) for key in ("pred", "true")
            )
            for yaw, numbers in protocols.nme_by_yaw(
                pred, true, part.yaw_deg, clusters=part.person, samples=bootstrap, seed=seed
            ).items():
                add(
                    "NME, mean of the bins" if yaw == "mean" else f"NME, yaw {yaw} degrees",
                    "%",
                    *numbers,
                )
    for text, count in judged.failed.value_counts().items():
        rows.append(
            dict(
                method="network",
                measure=f"failed: {text}",
                value=count,
                low=np.nan,
                high=np.nan,
                n=tried,
                unit="pictures",
            )
        )
    return pd.DataFrame(rows)


def sums(distances):
    """What pooled statistics need of `distances` (M,) mm, as (BINS + 3,): how many lie in each bin of STEP_MM, how many beyond, their sum and that of their squares."""
    counts = np.bincount(np.minimum(distances / STEP_MM, BINS).astype(int), minlength=BINS + 1)
    return np.r_[counts, distances.sum(), np.square(distances).sum()].astype(np.float32)


def statistics(summed):
    """Name -> (...,) mm of distances whose added `sums` are (..., BINS + 3). The median is the middle of its bin."""
    cumulative, mean, square = (
        summed[..., :-2].cumsum(-1),
        *(summed[..., i] / summed[..., :-2].sum(-1) for i in (-2, -1)),
    )
    return {
        "median": STEP_MM * ((2 * cumulative < cumulative[..., -1:]).sum(-1) + 0.5),
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0)),
        "root mean square": np.sqrt(square),
    }


def pooled_intervals(summed, person, bootstrap, seed, level=0.95):
    """Name -> (value, low, high) of the `statistics` over all pictures' vertices. summed: (n, BINS + 3), a picture each; whole people (n,) are drawn"""
    people, index = np.unique(np.asarray(person), return_inverse=True)
    by_person = np.zeros((len(people), summed.shape[1]))
    np.add.at(by_person, index, summed)
    times = np.random.default_rng(seed).multinomial(
        len(people), np.full(len(people), 1 / len(people)), size=bootstrap
    )
    drawn = statistics(times @ by_person)
    return {
        name: (float(value), *np.quantile(drawn[name], [(1 - level) / 2, (1 + level) / 2]).tolist())
        for name, value in statistics(by_person.sum(0)).items()
    }


# NoW's test set ----------------------------------------------------------------------------------------------------------------------------------


def submit(samples, reconstructor, folder, progress=False):
    """Write the faces of "now-test", whose scans NoW's owner alone has, into `folder`: each neutral face, skin only, mm, and its 7 landmarks. Returns picture -> why it failed and is missing."""
    failed, seven, places = (
        {},
        reconstructor.model.landmarks.cpu().numpy()[SEVEN],
        [str(samples.folder)],
    )

    def faces():
        for item in tqdm(samples, unit="picture", disable=not progress):
            try:
                face = reconstructor(item.image, item.box)
            except (ValueError, OSError) as error:
                failed[item.name] = reason(error, item, places)
                continue
            used, triangles = np.unique(face.region_triangles, return_inverse=True)
            yield (
                item.name,
                face.neutral_vertices[used],
                triangles.reshape(-1, 3),
                face.neutral_vertices[seven],
            )

    write_now_submission(folder, faces())
    return failed
