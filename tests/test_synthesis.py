import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from e2far import camera, data, morphable, synthesis

SIZE = 48


@pytest.fixture(scope="module")
def studio(face_model):
    return synthesis.Studio(face_model, SIZE)


@pytest.fixture(scope="module")
def rows(studio):
    return [studio.photograph(0, "train", person, picture) for person in range(12) for picture in range(2)]


def write(folder, split="train", people=4, pictures=3, seed=0, shard_size=5, n_jobs=1, size=SIZE, model=morphable.SHIPPED, **settings):
    return synthesis.write_split(model, folder, split, people, pictures, size=size, seed=seed, shard_size=shard_size, n_jobs=n_jobs, **settings)


def digest(folder):
    """One number for all that a split holds, whatever its shards."""
    shards = [load_file(path) for path in sorted(folder.glob("shard-*.safetensors"))]
    return hashlib.sha256(b"".join(torch.cat([shard[name] for shard in shards]).numpy().tobytes() for name in ("image", *data.LABELS))).hexdigest()


def test_a_picture_is_a_function_of_seed_split_person_and_number(studio):
    one = studio.photograph(0, "train", 3, 1)
    assert {k: (v.shape, v.dtype.name) for k, v in one.items() if k != "person"} == dict(
        image=((SIZE, SIZE, 3), "uint8"), identity=((80,), "float32"), expression=((29,), "float32"), pose=((9,), "float32"), landmarks=((68, 2), "float32"))
    studio.photograph(5, "test", 0, 0)
    again = studio.photograph(0, "train", 3, 1)
    assert all(np.array_equal(one[k], again[k]) for k in one)
    for other in ((1, "train", 3, 1), (0, "test", 3, 1), (0, "train", 4, 1), (0, "train", 3, 2)):
        picture = studio.photograph(*other)
        assert not np.array_equal(picture["image"], one["image"]) and not np.array_equal(picture["pose"], one["pose"])
        assert np.array_equal(picture["identity"], one["identity"]) == (other == (0, "train", 3, 2))        # the same person alone keeps their identity


def test_the_draws_are_what_they_were(rows, studio):
    """Known numbers: whoever changes the order of the draws changes every data set, and should mean to."""
    first = rows[0]
    np.testing.assert_allclose(first["identity"][:3], [.10296768, -.98052716, -.8174783], atol=1e-5)
    assert studio.draw_person(0, "train", 0)[1]["tone"] == pytest.approx(.142679142)
    angles = torch.rad2deg(camera.matrix_to_euler(camera.sixd_to_matrix(torch.from_numpy(first["pose"][:6]))))
    np.testing.assert_allclose(angles, [1.5595, 12.8605, 4.9791], atol=1e-3)
    np.testing.assert_allclose(first["image"].mean((0, 1)), [182.3, 160.1, 136.2], atol=1.5)                # to what other processors and JPEG libraries round


def test_labels_fit_the_picture(rows, face_model):
    """The model of the stored coefficients under the stored camera, a weak-perspective one, falls on the stored landmarks, seen in perspective."""
    for row in rows:
        shape = face_model(torch.from_numpy(row["identity"])[None], torch.from_numpy(row["expression"])[None])[0, face_model.landmarks]
        seen = camera.weak_perspective(shape, *camera.decode_pose(torch.from_numpy(row["pose"]), SIZE))
        distance = (seen - torch.from_numpy(row["landmarks"])).norm(dim=-1)
        assert distance.mean() < .03 * SIZE and distance.max() < .08 * SIZE


def test_poses_and_crops_keep_to_their_ranges(rows):
    angles = torch.rad2deg(camera.matrix_to_euler(camera.sixd_to_matrix(torch.from_numpy(np.stack([r["pose"][:6] for r in rows])))))
    assert (angles.abs() <= torch.tensor([45.01, 20.01, 10.01])).all() and angles[:, 0].min() < -15 and angles[:, 0].max() > 15
    box = camera.crop_box(torch.from_numpy(np.stack([r["landmarks"] for r in rows])))
    side, centre = box[:, 2] - box[:, 0], (box[:, :2] + box[:, 2:]) / 2
    assert (side > SIZE / 1.121).all() and (side < SIZE / .899).all()
    assert ((centre / SIZE - .5).abs() <= .101).all()


def test_the_face_is_where_its_landmarks_are(studio, face_model):
    """A white face before a black background: light at every landmark, none in the corners."""
    turned = face_model.mean.numpy()
    points = turned[:, :2] * [1, -1] * SIZE / 300 + SIZE / 2
    normals = np.tile(np.array([0, 0, 1], np.float32), (len(turned), 1))
    looks = studio.draw_person(0, "train", 0)[1] | dict(hair_thickness=0.)
    picture = studio.shade(turned, points, 600., normals, looks, np.zeros((SIZE, SIZE, 3), np.float32), np.random.default_rng(0))
    x, y = points[face_model.landmarks[17:]].astype(int).T
    assert (picture[y, x].sum(-1) > .01).all() and not picture[[0, 0, -1], [0, -1, -1]].any()


def test_yaw_shows_in_the_picture(studio):
    """Turned towards the subject's left, the nose tip lies to the right of the middle between the ears."""
    identity, looks = studio.draw_person(0, "train", 1)
    for yaw in (-.6, .6):
        row = studio.render(identity * 0, np.zeros(29, np.float32), np.array([yaw, 0., 0.]), looks, np.random.default_rng(0))
        nose, ears = row["landmarks"][30, 0], row["landmarks"][[0, 16], 0].mean()
        assert np.sign(nose - ears) == np.sign(yaw)


def test_a_person_looks_the_same_in_every_picture_and_unlike_others(studio):
    identity, looks = studio.draw_person(0, "train", 7)
    again, same = studio.draw_person(0, "train", 7)
    assert np.array_equal(identity, again) and all(np.array_equal(looks[k], same[k]) for k in looks)
    everyone = np.stack([studio.draw_person(0, split, person)[0] for split in synthesis.SPLITS for person in range(40)])
    distance = torch.cdist(torch.from_numpy(everyone), torch.from_numpy(everyone)).fill_diagonal_(np.inf)
    assert distance.min() > 5                                                   # no split knows a person of another
    assert abs(everyone).max() <= 3 and abs(everyone.std() - 1) < .05 and abs(everyone.mean()) < .05


def test_identities_and_expressions_are_not_tied(rows):
    assert len({row["expression"].tobytes() for row in rows}) > 15


def test_a_model_that_names_no_units_draws_normal_expressions():
    toy = morphable.toy_model(dtype=torch.float32)
    bare = morphable.MorphableModel(toy.mean, toy.identity_basis, toy.expression_basis, toy.triangles, toy.landmarks, name="bare")
    row = synthesis.Studio(bare, SIZE).photograph(0, "train", 0, 0)
    assert row["expression"].shape == (4,) and row["image"].std() > 5


def test_antialiasing_changes_the_picture_but_not_the_labels(face_model, rows):
    plain = synthesis.Studio(face_model, SIZE, antialias=1).photograph(0, "train", 0, 0)
    for name in ("identity", "expression", "pose", "landmarks"):
        assert np.array_equal(plain[name], rows[0][name])
    assert 0 < abs(plain["image"].astype(float) - rows[0]["image"]).mean() < 10


def test_steps_end_with_the_photo(studio):
    identity, looks = studio.draw_person(0, "train", 0)
    steps = studio.steps(identity, studio.draw_expression(np.random.default_rng(1)), np.deg2rad([25., 5., -4.]), looks, seed=3)
    assert all(picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 for picture in steps.values())
    pictures = list(steps.values())
    assert all(not np.array_equal(a, b) for a, b in zip(pictures, pictures[1:]))


def test_shard_size_and_workers_change_no_picture(tmp_path):
    write(tmp_path / "a", shard_size=5)
    write(tmp_path / "b", shard_size=100)
    write(tmp_path / "c", shard_size=4, n_jobs=2)
    assert [len(list((tmp_path / run / "train").iterdir())) for run in "abc"] == [3, 1, 3]
    assert digest(tmp_path / "a/train") == digest(tmp_path / "b/train") == digest(tmp_path / "c/train")
    faces = data.Faces(tmp_path / "a/train")
    assert faces.person.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and faces.image_size == SIZE
    assert not list(tmp_path.rglob("*.partial"))


def test_finished_shards_are_kept_and_broken_ones_replaced(tmp_path):
    paths = write(tmp_path)
    before, times = digest(tmp_path / "train"), [path.stat().st_mtime_ns for path in paths]
    paths[1].write_bytes(paths[1].read_bytes()[:-1000])
    paths[2].unlink()
    (tmp_path / "train" / "shard-00000.safetensors.partial").write_bytes(b"left by an interrupted run")
    assert write(tmp_path) == paths
    after = [path.stat().st_mtime_ns for path in paths]
    assert digest(tmp_path / "train") == before and after[0] == times[0] and after[1] != times[1]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("change", [dict(seed=1), dict(size=40), dict(yaw_deg=5.), dict(antialias=1)])
def test_other_settings_write_anew(tmp_path, change):
    write(tmp_path, people=2)
    before = digest(tmp_path / "train")
    write(tmp_path, people=2, **change)
    changed = digest(tmp_path / "train")
    write(tmp_path / "fresh", people=2, **change)
    assert before != changed == digest(tmp_path / "fresh/train")


def test_fewer_people_leave_no_stale_shard(tmp_path):
    write(tmp_path, people=6)
    write(tmp_path, people=2)
    assert data.Faces(tmp_path / "train").person.tolist() == [0, 0, 0, 1, 1, 1]


def test_progress_counts_the_shards(tmp_path):
    seen = []

    def progress(jobs, total):
        for job in jobs:
            seen.append((job.name, total))
            yield job

    write(tmp_path, progress=progress)
    assert seen == [(f"shard-{i:05d}.safetensors", 3) for i in range(3)]
