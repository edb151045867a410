import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from e2far import appearance


def rng(seed=0):
    return np.random.default_rng(seed)


class Middle:
    """Draws the middle of every distribution, so that the outcome is known by hand."""

    def random(self, shape=None):
        return .5

    def uniform(self, low=0., high=1., size=None):
        return (low + high) / 2

    def normal(self, mean=0., sd=1., size=None):
        return mean if size is None else np.full(size, float(mean))

    def integers(self, low, high):
        return low


@pytest.fixture(scope="module")
def head(face_model):
    return {k: v.numpy() for k, v in face_model.attributes.items()}, face_model.mean.numpy()


@pytest.mark.parametrize("draw", [lambda r: appearance.draw_background(24, r), appearance.draw_light, lambda r: appearance.develop(np.full((24, 24, 3), .2, np.float32), r)])
def test_the_seed_decides(draw):
    same, again, other = draw(rng(3)), draw(rng(3)), draw(rng(4))
    for a, b in zip(same, again):
        assert np.array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(same, other))


def test_people_are_varied_and_their_colours_are_light():
    people = [appearance.draw_person(rng(i)) for i in range(300)]
    for colour in ("skin", "hair", "iris"):
        values = np.array([p[colour] for p in people])
        assert values.shape == (300, 3) and values.min() > 0 and values.max() < 1.3
    skin = np.array([p["skin"].mean() for p in people])
    tone = np.array([p["tone"] for p in people])
    assert np.corrcoef(tone, skin)[0, 1] < -.95 and skin.max() > 8 * skin.min()       # from fair to dark, uniformly along the path
    assert abs(np.mean(tone) - .5) < .06
    for share, expected in ((np.mean([p["bald"] for p in people]), .12), (np.mean([p["beard"] > 0 for p in people]), .28)):
        assert abs(share - expected) < .08
    assert all(p["hair_thickness"] == p["long"] == 0 for p in people if p["bald"])


def test_albedo_is_a_colour_and_lips_change_only_lips(head):
    attributes, template = head
    person = appearance.draw_person(rng(5))
    colour, gloss = appearance.vertex_albedo(person, attributes, template, rng(1))
    assert colour.shape == template.shape and colour.dtype == np.float32 and .005 <= colour.min() and colour.max() <= 1
    assert gloss.shape == (len(template),) and gloss.min() >= 0
    made_up, _ = appearance.vertex_albedo(person | dict(lips=0.), attributes, template, rng(1))
    changed = (colour != made_up).any(1)
    assert changed.any() and not changed[attributes["lips"] == 0].any()


def test_a_model_without_attributes_is_all_skin(face_model):
    person = appearance.draw_person(rng(5)) | dict(grain=0., redness=0., waves=np.zeros((10, 3)))
    colour, _ = appearance.vertex_albedo(person, {}, face_model.mean.numpy(), rng())
    np.testing.assert_allclose(colour, np.broadcast_to(person["skin"], colour.shape), rtol=1e-5)
    assert appearance.hair_volume(person, {}) is None


def test_hair_stands_off_the_scalp_alone(head):
    attributes, template = head
    person = appearance.draw_person(rng(5)) | dict(bald=False, hairline=0., hair_thickness=20., ears_covered=False)
    volume = appearance.hair_volume(person, attributes)
    assert volume.min() == 0 and volume.max() == 20 and not volume[attributes["hairline"] < 0].any()
    assert not appearance.hair_volume(person | dict(hair_thickness=0.), attributes).any()


def test_one_lamp_lights_as_the_clamped_cosine_does():
    """One lamp and a sky, evaluated as `rasterize.shade` does: within a tenth of max(0, cosine), the error of any expansion to degree two."""
    harmonics, lamps = appearance.draw_light(Middle())
    sky, colour, direction = .335, .625, np.array([0, .35, .575]) / np.hypot(.35, .575)
    normals = rng().standard_normal((500, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    x, y, z = normals.T
    light = np.stack([np.ones(500), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], 1) @ harmonics[:, 0]
    cosine = normals @ direction
    light = (light - sky - .25 * sky * y) / colour
    np.testing.assert_allclose(light, .25 + .5 * cosine + 15 / 32 * (cosine ** 2 - 1 / 3), atol=1e-5)
    assert abs(light - cosine.clip(0)).max() < .1
    half = direction + [0, 0, 1]
    np.testing.assert_allclose(lamps[0, :3], half / np.linalg.norm(half), atol=1e-6)


def test_light_is_finite_and_lamps_shine_from_the_front():
    for seed in range(50):
        harmonics, lamps = appearance.draw_light(rng(seed))
        assert harmonics.shape == (9, 3) and np.isfinite(harmonics).all() and 1 <= len(lamps) <= 3
        np.testing.assert_allclose(np.linalg.norm(lamps[:, :3], axis=1), 1, atol=1e-5)
        assert (lamps[:, 2] > 0).all()


def test_background_is_linear_light():
    for seed in range(20):
        picture = appearance.draw_background(17, rng(seed))
        assert picture.shape == (17, 17, 3) and picture.dtype == np.float32 and 0 <= picture.min() and picture.max() <= 1


@pytest.mark.parametrize("sigma", [.6, 1., 2.3])
def test_blur_is_a_gaussian_filter(sigma):
    picture = rng().random((20, 20, 3)).astype(np.float32)
    np.testing.assert_allclose(appearance.blur(picture, sigma), gaussian_filter(picture, (sigma, sigma, 0), mode="nearest", truncate=2.5), atol=1e-5)


def test_an_ellipse_has_its_area_and_colour():
    picture = np.zeros((60, 60, 3), np.float32)
    appearance.paint_ellipse(picture, (30, 25), (20, 10), (1, .5, .25), angle=.7)
    assert abs(picture[..., 0].sum() / (np.pi * 200) - 1) < .02
    assert np.allclose(picture[25, 30], (1, .5, .25)) and not picture[0].any()
    y, x = np.mgrid[:60, :60] + .5
    assert abs((picture[..., 0] * x).sum() / picture[..., 0].sum() - 30) < .1 and abs((picture[..., 0] * y).sum() / picture[..., 0].sum() - 25) < .1


def test_a_developed_picture_is_neither_black_nor_white():
    scene = rng().random((40, 40, 3)).astype(np.float32)
    for brightness in (.03, .3, 3.):
        means = [appearance.develop(scene * brightness, rng(seed)).mean() for seed in range(20)]
        assert appearance.develop(scene * brightness, rng()).dtype == np.uint8
        assert 40 < np.mean(means) < 215
