import numpy as np
import pytest
import torch

from e2far.synthesis.painter import Painter
from e2far.synthesis.people import draw_person
from e2far.synthesis.surface import GUM, TEETH, head_tables, inside_colours
from e2far.synthesis.wardrobe import Wardrobe


@pytest.fixture(scope="module")
def painter(head):
    return Painter(head_tables(*head), Wardrobe(*head))


def looks(painter, *seeds, **change):
    """A batch of looks."""
    people = [draw_person(np.random.default_rng(seed)) | change for seed in seeds]
    hair = painter.parts["hair"]
    batch = dict.fromkeys(("hair_u", "hair_v"), torch.zeros(len(seeds), hair.stop - hair.start))
    for name, value in people[0].items():
        if not isinstance(value, dict):
            values = np.stack([person[name] for person in people])
            batch[name] = torch.from_numpy(values.astype(np.float32))
    return batch


def albedo(painter, *seeds, squeeze=None, **change):
    squeeze = torch.zeros(1, len(painter.hairline)) if squeeze is None else squeeze
    return painter.albedo(looks(painter, *seeds, **change), squeeze)


def colour(painter, seed, **change):
    """Of the head's vertices, (N, 3)."""
    return albedo(painter, seed, **change)[0][0, : len(painter.hairline)]


def scene(lamp_from=(0.0, 0, 1), sky=0.0, **change):
    """At most one lamp, a grey sky, a head that looks at the camera."""
    lamps, harmonics = torch.zeros(1, 3, 8), torch.zeros(1, 9, 3)
    harmonics[:, 0] = sky
    if lamp_from:
        lamps[:, 0] = torch.tensor([*lamp_from, 1, 1, 1, 30.0, 20.0])
    plain = dict(rotation=torch.eye(3)[None], shell=torch.zeros(1), shade=torch.ones(1))
    return dict(harmonics=harmonics, lamps=lamps) | plain | change


def light(painter, normals=(0.0, 0, 1), **change):
    """On white vertices, (N, 3); at the default of their normals, all of them face the camera."""
    n = len(painter.sky)
    normals = torch.as_tensor(normals).expand(1, n, 3)
    return painter.light(scene(**change), normals, torch.ones(1, n, 3), torch.zeros(1, n))[0]


def test_shapes_and_ranges_and_a_batch_is_its_pictures(painter):
    n = len(painter.sky)
    together = albedo(painter, 0, 4, 5)
    assert [values.shape for values in together] == [(3, n, 3), (3, n), (3, n, 5)]
    assert all(values.isfinite().all() for values in together)
    colour, gloss, _ = together
    assert 0.002 < colour.min() and colour.max() <= 1 and gloss.min() >= 0
    for i, seed in enumerate((0, 4, 5)):
        alone = [values[0] for values in albedo(painter, seed)]
        torch.testing.assert_close([v[i] for v in together], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name, mark",
    [("lips_strength", "lips"), ("shadow_strength", "lid"), ("lash", "lash")]
    + [("under_eye", "under_eye"), ("age_lines", "lines")],
)
def test_each_make_up_changes_its_own_place_alone(painter, name, mark):
    change = colour(painter, 3, **{name: 0.8}) - colour(painter, 3, **{name: 0.0})
    changed = change.abs().amax(-1) > 1e-4
    place = painter.marks[:, painter.mark_names.index(mark)]
    assert changed.any() and not changed[place < 1e-4].any()


def test_gums_are_red_gaps_dark_and_nostrils_darker():
    """Of five vertices: a tooth, a gum, a gap, the bottom of a nostril, skin."""
    one = np.eye(5)
    maps = dict(teeth=one[:3].sum(0), mouth=np.zeros(5), tongue=np.zeros(5))
    attributes = dict(gum=one[1], gap=one[2], nostril=one[3])
    tooth, gum, gap, nostril, skin = inside_colours(maps, attributes)
    np.testing.assert_allclose([tooth, gum], [(*TEETH, 1), (*GUM, 1)])
    assert gap[0] < 0.3 * tooth[0] and nostril[0] < 0.1 < 0.9 < nostril[3] and skin[3] == 0
    np.testing.assert_array_equal(inside_colours(maps, {})[:3], [(*TEETH, 1)] * 3)


def test_beards_and_hair_take_their_colours(painter, head):
    _, landmarks, _, attributes = head
    beard = dict(beard=np.ones(3), whiskers=np.array([0.0, 0.8, 0.0]))
    hair = dict(hair=np.array([0.0, 0.0, 0.8]), scalp=1.0, covered=0.0, hairline=0.0)
    found = colour(painter, 3, **beard, **hair)
    chin, crown = (found[np.argmax(attributes[name])] for name in ("beard", "hairline"))
    assert chin[1] > 1.5 * chin[0] and crown[2] > 5 * crown[0]
    nose, lips = found[landmarks[[30, 57]]]
    assert nose[0] > nose[1] and lips[0] > lips[1]


def test_skin_that_is_squeezed_darkens(painter, head):
    chin, nose = head[1][[8, 30]]
    folded = torch.zeros(1, len(painter.hairline))
    folded[0, nose] = 0.5
    smooth, wrinkled = (colour(painter, 3, wrinkles=0.8, squeeze=s) for s in (None, folded))
    assert wrinkled[nose].sum() < 0.8 * smooth[nose].sum()
    assert torch.equal(wrinkled[chin], smooth[chin])


def test_a_lamp_from_the_front_lights_by_the_cosine(painter):
    made = torch.Generator().manual_seed(0)
    normals = torch.randn(len(painter.sky), 3, generator=made)
    normals = torch.nn.functional.normalize(normals, dim=-1)
    cosine = ((normals[:, 2:] + painter.wrap) / (1 + painter.wrap)).clamp(0)
    found = light(painter, normals, shade=torch.zeros(1))
    torch.testing.assert_close(found, cosine, atol=1e-5, rtol=1e-4)


def test_shadows_fall_where_the_lamp_is_not(painter, head):
    """Every vertex faces the lamp: shadows alone make a difference."""
    right_cheek, left_cheek, nose = head[1][[2, 14, 30]]
    from_left = dict(normals=(1.0, 0, 0), lamp_from=(1.0, 0, 0))
    found = light(painter, **from_left).mean(-1)
    assert found[left_cheek] > 0.8 and found[right_cheek] < 0.2
    # A head that looks to its left has the lamp before it.
    turned = torch.tensor([[[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]])
    assert light(painter, **from_left, rotation=turned)[nose].mean() > 0.9


def test_a_sky_alone_is_dimmed_by_what_hides_it(painter, head):
    points, landmarks, _, attributes = head
    free, shaded = (
        light(painter, lamp_from=None, sky=1.0, shell=torch.full((1,), shell))[:, 0]
        for shell in (0.0, 1.0)
    )
    torch.testing.assert_close(free, painter.sky)
    forehead = np.argmin(abs(attributes["hairline"] + 4) + 100 * (points[:, 2] < 0))
    chin = landmarks[8]
    assert shaded[forehead] < 0.8 * free[forehead] and shaded[chin] > 0.98 * free[chin]


def test_eyes_carry_their_colours_and_the_lamps_highlights(painter):
    batch = looks(painter, 0) | scene()
    eye = painter.eyes(batch)
    assert eye.shape == (1, 21)
    torch.testing.assert_close(eye[:, :6], torch.cat((batch["white"], batch["iris"]), 1))
    # One lamp at the camera: one highlight in the middle.
    assert eye[0, 9:11].abs().max() < 1e-6 and eye[0, 12] > 1 and not eye[0, [16, 20]].any()
