import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab
from test_studio import PLAIN

from e2far.synthesis import boxes, colour, develop, scenes
from e2far.synthesis.people import draw_person
from e2far.synthesis.surface import face_maps, head_shadows, make_texture, sphere_directions

SKIN, SLEEVE = np.full(3, 0.5), np.full(3, 0.7)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_lab_is_turned_into_linear_light():
    lab = rng().uniform([20, -15, -15], [90, 15, 15], (50, 3))
    linear = colour.lab_to_linear(lab)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    np.testing.assert_allclose(rgb2lab(encoded), lab, atol=0.15)
    np.testing.assert_allclose(colour.lab_to_linear([100, 0, 0]), 1, atol=2e-3)


def test_people_are_varied_and_of_fixed_shapes():
    people = [draw_person(rng(i)) for i in range(400)]
    names = people[0].keys() - {"style", "body", "rims"}
    # np.stack: all have the same shapes, so that they make a batch.
    drawn = {name: np.stack([person[name] for person in people]) for name in names}
    assert all(np.isfinite(values).all() for values in drawn.values())
    tone, (red, green, blue) = drawn["tone"], drawn["skin"].T
    lightness = rgb2lab(drawn["skin"].clip(0, 1) ** (1 / 2.2))[:, 0]
    assert lightness.min() < 35 < 72 < lightness.max() and abs(tone.mean() - 0.5) < 0.06
    assert np.corrcoef(tone, lightness)[0, 1] < -0.95
    assert (red > green).all() and (green > blue).all()  # reddish yellow, whatever the tone
    for name, low, high in (("glasses", 0.18, 0.32), ("covered", 0.1, 0.22), ("shell", 0.7, 0.95)):
        assert low < (drawn[name] > 0).mean() < high, name
    assert 0.12 < drawn["beard"].any(1).mean() < 0.35


def test_face_maps_lie_where_they_should(head):
    mean, landmarks, _, attributes = head
    maps = face_maps(mean, landmarks, attributes)
    assert all(m.shape == (len(mean),) and m.min() >= 0 and m.max() <= 1.01 for m in maps.values())
    middle = {name: np.average(mean, axis=0, weights=values) for name, values in maps.items()}
    for name in ("chin", "moustache", "nose", "cheek", "lid", "lash"):
        assert abs(middle[name][0]) < 3, name
    chin, lip, nose, eye = mean[landmarks[[8, 57, 33, 36]], 1]
    assert chin < middle["chin"][1] < lip < middle["moustache"][1] < nose
    assert nose - 12 < middle["cheek"][1] < eye - 12 and eye < middle["lid"][1] + 3
    bare = face_maps(mean, landmarks, {})  # of a model that knows nothing but its landmarks
    assert not bare["lips"].any() and bare["cheek"].any()


def test_the_detail_texture_repeats_and_is_normalised():
    texture = make_texture()
    assert texture.shape == (256, 256, 3) and texture.dtype == np.float32
    np.testing.assert_allclose(texture[..., :2].std((0, 1)), 1, atol=0.01)
    pores = texture[..., 2]
    assert pores.min() >= -1 and pores.max() == 0
    along, across = (abs(np.diff(texture[..., 1], axis=axis)).mean() for axis in (0, 1))
    assert along < 0.3 * across  # strands run along v
    assert abs(texture[0, :, 1] - texture[-1, :, 1]).mean() < 1.3 * along  # no seam


def test_head_shadows_know_the_sides_of_a_head(head):
    mean, landmarks, triangles, _ = head
    free, sky = head_shadows(mean, triangles, np.zeros(len(mean), bool))
    assert free.shape == (len(mean), 64) and 0 <= free.min() and free.max() <= 1
    assert 0 <= sky.min() and sky.max() <= 1.001
    directions = sphere_directions()
    left, front = directions[:, 0] > 0.8, directions[:, 2] > 0.8
    right_cheek, left_cheek, nose, eye_corner = landmarks[[2, 14, 30, 39]]
    assert free[left_cheek][left].mean() > 0.8 and free[right_cheek][left].mean() < 0.05
    assert free[nose][front].mean() > 0.95 and sky[nose] > 0.9 > sky[eye_corner]


def test_directions_cover_the_sphere_evenly():
    directions = sphere_directions(200)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(directions.T @ directions / 200, np.eye(3) / 3, atol=0.01)


def test_a_lobe_is_the_clamped_cosine_to_degree_two():
    harmonics, direction = np.zeros((9, 3)), np.array([0.6, 0.0, 0.8])
    scenes.add_lobe(harmonics, direction, np.array([1.0, 2.0, 0.5]))
    normals = rng().standard_normal((500, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    x, y, z = normals.T
    basis = [x**0, y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y]
    light, cosine = np.stack(basis, 1) @ harmonics, normals @ direction
    expected = 0.25 + 0.5 * cosine + 15 / 32 * (cosine**2 - 1 / 3)
    np.testing.assert_allclose(light[:, 0], expected, atol=1e-6)
    assert abs(light[:, 0] - cosine.clip(0)).max() < 0.1
    np.testing.assert_allclose(light[:, 1:], light[:, :1] * [2, 0.5])


def test_no_scene_is_without_light():
    for seed in range(80):
        harmonics, lamps = scenes.draw_light(rng(seed))
        lit = lamps[lamps.any(1)]
        np.testing.assert_allclose(np.linalg.norm(lit[:, :3], axis=1), 1, atol=1e-6)
        assert harmonics[0].mean() + lamps[:, 3:6].sum() > 0.2


def test_backgrounds_fill_the_picture_and_obstacles_are_rare():
    for seed in range(20):
        laid = boxes.draw_background(17, rng(seed))
        assert len(laid) == boxes.PANELS
        assert laid["half"][0].min() >= 17 and laid["opacity"][0] == 1
        picture = np.full((17, 17, 3), -1, np.float32)
        boxes.paint(picture, laid, make_texture(), np.zeros((17, 17), np.float32))
        assert (picture >= 0).all()
    hidden = [boxes.draw_obstacles(40, SKIN, SLEEVE, rng(seed)) for seed in range(400)]
    assert 0.2 < np.mean([laid["opacity"].any() for laid in hidden]) < 0.35


def test_a_hand_has_five_fingers_and_an_arm_that_comes_from_outside():
    for seed in range(20):
        arm, back, *fingers = boxes.draw_hand(100, SKIN, SLEEVE, rng(seed))
        way = np.array([np.cos(arm["angle"]), np.sin(arm["angle"])])
        elbow = arm["centre"] - way * arm["half"][0]
        assert len(fingers) == 5 and (np.abs(elbow - 50) > 40).any()
        for finger in fingers:
            assert np.linalg.norm(finger["centre"] - back["centre"]) < 3.5 * back["half"][0]


@pytest.mark.parametrize("x, y", [(0.6, 0.6), (1.0, 1.0), (2.3, 2.3), (1.5, 0.01)])
def test_taps_are_a_gaussian(x, y):
    picture = rng().random((20, 20, 3)).astype(np.float32)
    taps = [develop.taps(sigma) for sigma in (x, y)]
    np.testing.assert_allclose([weights.sum() for weights in taps], 1, atol=1e-6)
    radius = [len(weights) // 2 for weights in (taps[1], taps[0])]
    expected = gaussian_filter(picture, (y, x), mode="nearest", radius=radius, axes=(0, 1))
    np.testing.assert_allclose(develop.soften(picture, *taps), expected, atol=2e-5)


@pytest.mark.parametrize("brightness", [0.03, 0.3, 3.0])
def test_a_developed_picture_is_neither_black_nor_white(brightness):
    scene = rng().random((40, 40, 3)).astype(np.float32) * brightness
    shots = [scenes.draw_camera(40, rng(seed)) for seed in range(20)]
    photos = np.stack([develop.develop(scene, shot) for shot in shots])
    assert photos.dtype == np.uint8 and 40 < photos.mean() < 215


def test_the_camera_does_what_its_numbers_say():
    def photo(scene, **change):
        return develop.develop(scene.astype(np.float32), PLAIN | change)

    colour = np.array([0.2, 0.1, 0.3])
    scene = np.broadcast_to(colour, (32, 32, 3))
    plain = photo(scene)
    np.testing.assert_allclose(plain[5, 5], 255 * (colour * 0.2 / 0.22) ** (1 / 2.2), atol=1)
    assert np.ptp(photo(scene, saturation=0.0)[5, 5].astype(int)) <= 1
    noise = photo(scene, noise=0.03).astype(float) - plain
    assert abs(noise.std() / 255 - 0.03) < 0.004 and abs(noise.mean()) < 1
    edge = np.repeat([0.1, 0.3], 56)[None, :, None] * np.ones((112, 112, 3))
    soft, sharp = (np.diff(photo(edge, sharpen=s)[5, :, 0].astype(int)).max() for s in (0.0, 1.0))
    assert sharp > 1.2 * soft  # halos on both sides of it
    file = io.BytesIO()
    Image.fromarray(plain).save(file, "JPEG", quality=40)
    assert np.array_equal(photo(scene, quality=40), np.asarray(Image.open(file)))
