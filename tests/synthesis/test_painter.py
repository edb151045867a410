import numpy as np
import pytest
import torch

from e2far.synthesis.painter import GUM, MARKS, TEETH, Painter, inside_colours
from e2far.synthesis.people import draw_person
from e2far.synthesis.wardrobe import Wardrobe


@pytest.fixture(scope="module")
def head(face_model):
    return (
        face_model.mean.numpy(),
        face_model.landmarks.numpy(),
        face_model.triangles.numpy(),
        {k: v.numpy() for k, v in face_model.attributes.items()},
    )


@pytest.fixture(scope="module")
def painter(head):
    return Painter(*head, Wardrobe(*head))


def looks(painter, *seeds, **change):
    """A batch of looks."""
    people = [
        {k: v for k, v in draw_person(np.random.default_rng(s)).items() if not isinstance(v, dict)}
        | change
        for s in seeds
    ]
    hair = painter.parts["hair"].stop - painter.parts["hair"].start
    return {
        k: torch.from_numpy(np.stack([np.asarray(p[k], np.float32) for p in people]))
        for k in people[0]
    } | dict(hair_u=torch.zeros(len(seeds), hair), hair_v=torch.zeros(len(seeds), hair))


def scene(count=1, **change):
    """Lamps from the front, no sky, a head that looks at the camera."""
    lamps = torch.zeros(count, 3, 8)
    lamps[:, 0] = torch.tensor([0, 0, 1, 1, 1, 1, 30.0, 20.0])
    return (
        dict(
            harmonics=torch.zeros(count, 9, 3),
            lamps=lamps,
            rotation=torch.eye(3).expand(count, 3, 3),
            shell=torch.zeros(count),
            shade=torch.ones(count),
        )
        | change
    )


def squeeze(painter, count=1):
    return torch.zeros(count, len(painter.hairline))


def test_shapes_and_ranges(painter, head):
    batch = looks(painter, 0, 1, 2)
    colour, gloss, detail = painter.albedo(batch, squeeze(painter, 3))
    n = len(head[0]) + sum(s.stop - s.start for s in painter.parts.values())
    assert colour.shape == (3, n, 3) and gloss.shape == (3, n) and detail.shape == (3, n, 5)
    assert (
        0.002 < colour.min()
        and colour.max() <= 1
        and gloss.min() >= 0
        and all(x.isfinite().all() for x in (colour, gloss, detail))
    )


def test_a_batch_is_its_pictures(painter):
    together = painter.albedo(looks(painter, 4, 5), squeeze(painter, 2))
    for i, seed in enumerate((4, 5)):
        for a, b in zip(together, painter.albedo(looks(painter, seed), squeeze(painter))):
            torch.testing.assert_close(a[i], b[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name, mark",
    [
        ("lips_strength", "lips"),
        ("shadow_strength", "lid"),
        ("lash", "lash"),
        ("under_eye", "under_eye"),
        ("age_lines", "lines"),
    ],
)
def test_each_make_up_changes_its_own_place_alone(painter, name, mark):
    with_it, without = (
        painter.albedo(looks(painter, 3, **{name: strength}), squeeze(painter))[0][
            0, : len(painter.hairline)
        ]
        for strength in (0.8, 0.0)
    )
    changed = (with_it - without).abs().amax(-1) > 1e-4
    place = painter.marks[:, MARKS.index(mark)]
    assert changed.any() and not changed[place < 1e-4].any()


def test_gums_are_red_gaps_dark_and_nostrils_darker():
    """Of five vertices: a tooth, a gum, a gap, the bottom of a nostril, skin."""
    maps = dict(teeth=np.array([1.0, 1, 1, 0, 0]), mouth=np.zeros(5), tongue=np.zeros(5))
    attributes = dict(
        gum=np.array([0.0, 1, 0, 0, 0]),
        gap=np.array([0.0, 0, 1, 0, 0]),
        nostril=np.array([0.0, 0, 0, 1, 0]),
    )
    tooth, gum, gap, nostril, skin = inside_colours(maps, attributes)
    np.testing.assert_allclose([tooth, gum], [(*TEETH, 1), (*GUM, 1)])
    assert gap[0] < 0.3 * tooth[0] and nostril[0] < 0.1 < 0.9 < nostril[3] and skin[3] == 0
    np.testing.assert_array_equal(inside_colours(maps, {})[:3], [(*TEETH, 1)] * 3)


def test_beards_and_hair_take_their_colours(painter, head):
    green, blue = np.array([0.0, 0.8, 0.0]), np.array([0.0, 0.0, 0.8])
    colour = painter.albedo(
        looks(
            painter,
            3,
            beard=np.ones(3),
            whiskers=green,
            hair=blue,
            scalp=1.0,
            covered=0.0,
            hairline=0.0,
        ),
        squeeze(painter),
    )[0][0, : len(painter.hairline)]
    chin, crown = np.argmax(head[3]["beard"]), np.argmax(head[3]["hairline"])
    assert colour[chin, 1] > 1.5 * colour[chin, 0] and colour[crown, 2] > 5 * colour[crown, 0]
    assert (
        colour[head[1][30], 0] > colour[head[1][30], 1]
        and colour[head[1][57], 0] > colour[head[1][57], 1]
    )  # neither nose nor lips


def test_skin_that_is_squeezed_darkens(painter, head):
    folded = squeeze(painter)
    folded[0, head[1][30]] = 0.5
    smooth, wrinkled = (
        painter.albedo(looks(painter, 3, wrinkles=0.8), s)[0][0] for s in (squeeze(painter), folded)
    )
    assert wrinkled[head[1][30]].sum() < 0.8 * smooth[head[1][30]].sum()
    assert torch.equal(wrinkled[head[1][8]], smooth[head[1][8]])


def test_a_lamp_from_the_front_lights_by_the_cosine(painter, head):
    n = len(painter.sky)
    normals = torch.nn.functional.normalize(
        torch.randn(1, n, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    light = painter.light(
        scene(shade=torch.zeros(1)), normals, torch.ones(1, n, 3), torch.zeros(1, n)
    )
    wrap = painter.wrap
    torch.testing.assert_close(
        light[0], ((normals[0, :, 2:] + wrap) / (1 + wrap)).clamp(0), atol=1e-5, rtol=1e-4
    )


def test_shadows_fall_where_the_lamp_is_not(painter, head):
    n, points = len(painter.sky), head[1]
    lamps = scene()["lamps"].clone()
    lamps[0, 0, :3] = torch.tensor([1.0, 0, 0])  # from the subject's left
    normals = torch.tensor([1.0, 0, 0]).expand(
        1, n, 3
    )  # every vertex faces the lamp: shadows alone make a difference
    light = painter.light(scene(lamps=lamps), normals, torch.ones(1, n, 3), torch.zeros(1, n))[
        0
    ].mean(-1)
    assert light[points[14]] > 0.8 and light[points[2]] < 0.2
    turned = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])[
        None
    ]  # a head that looks to its left has the lamp before it
    light = painter.light(
        scene(lamps=lamps, rotation=turned), normals, torch.ones(1, n, 3), torch.zeros(1, n)
    )[0].mean(-1)
    assert light[points[30]] > 0.9


def test_a_sky_alone_is_dimmed_by_what_hides_it(painter, head):
    n = len(painter.sky)
    harmonics = torch.zeros(1, 9, 3)
    harmonics[:, 0] = 1
    light = painter.light(
        scene(harmonics=harmonics, lamps=torch.zeros(1, 3, 8)),
        torch.tensor([0.0, 0, 1]).expand(1, n, 3),
        torch.ones(1, n, 3),
        torch.zeros(1, n),
    )[0, :, 0]
    torch.testing.assert_close(light, painter.sky)
    shaded = painter.light(
        scene(harmonics=harmonics, lamps=torch.zeros(1, 3, 8), shell=torch.ones(1)),
        torch.tensor([0.0, 0, 1]).expand(1, n, 3),
        torch.ones(1, n, 3),
        torch.zeros(1, n),
    )[0, :, 0]
    forehead = np.argmin(abs(head[3]["hairline"] + 4) + 100 * (head[0][:, 2] < 0))
    assert (
        shaded[forehead] < 0.8 * light[forehead] and shaded[head[1][8]] > 0.98 * light[head[1][8]]
    )


def test_eyes_carry_their_colours_and_the_lamps_highlights(painter):
    batch = looks(painter, 0) | scene()
    eye = painter.eyes(batch)
    assert eye.shape == (1, 21)
    torch.testing.assert_close(eye[:, :6], torch.cat((batch["white"], batch["iris"]), 1))
    assert (
        eye[0, 9:11].abs().max() < 1e-6 and eye[0, 12] > 1 and not eye[0, [16, 20]].any()
    )  # one lamp at the camera: one highlight in the middle
