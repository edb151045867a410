import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from e2far.synthesis import colour, develop, scenes
from e2far.synthesis.people import draw_person
from e2far.synthesis.surface import (
    DIRECTIONS,
    TEXTURE,
    face_maps,
    head_shadows,
    make_texture,
    sphere_directions,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def numbers(looks):
    return {k: v for k, v in looks.items() if not isinstance(v, dict)}


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: scenes.draw_background(24, r),
        lambda r: scenes.draw_light(r)[0],
        lambda r: draw_person(r)["blotches"],
        lambda r: np.array([scenes.draw_camera(24, r)["exposure"]]),
    ],
)
def test_the_seed_decides(draw):
    assert np.array_equal(draw(rng(3)), draw(rng(3))) and not np.array_equal(
        draw(rng(3)), draw(rng(4))
    )


def test_lab_is_turned_into_linear_light():
    lab = rng().uniform([20, -15, -15], [90, 15, 15], (50, 3))
    linear = colour.lab_to_linear(lab)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    np.testing.assert_allclose(rgb2lab(encoded), lab, atol=0.15)
    np.testing.assert_allclose(colour.lab_to_linear([100, 0, 0]), 1, atol=2e-3)


def test_people_are_varied_and_of_fixed_shapes():
    people = [draw_person(rng(i)) for i in range(400)]
    shapes = {k: np.shape(v) for k, v in numbers(people[0]).items()}
    assert all(
        {k: np.shape(v) for k, v in numbers(p).items()} == shapes for p in people
    )  # so that they make a batch
    assert all(np.isfinite(v).all() for p in people for v in numbers(p).values())
    lightness = np.array([rgb2lab(np.clip(p["skin"], 0, 1) ** (1 / 2.2))[0] for p in people])
    tone = np.array([p["tone"] for p in people])
    assert (
        np.corrcoef(tone, lightness)[0, 1] < -0.95
        and lightness.min() < 35 < 72 < lightness.max()
        and abs(tone.mean() - 0.5) < 0.06
    )
    skin = np.array([p["skin"] for p in people])
    assert (skin[:, 0] > skin[:, 1]).all() and (
        skin[:, 1] > skin[:, 2]
    ).all()  # skin is reddish yellow, whatever its tone
    for name, low, high in (("glasses", 0.18, 0.32), ("covered", 0.1, 0.22), ("shell", 0.7, 0.95)):
        assert low < np.mean([p[name] > 0 for p in people]) < high, name
    assert 0.12 < np.mean([p["beard"].any() for p in people]) < 0.35


def test_face_maps_lie_where_they_should(face_model):
    mean, landmarks = face_model.mean.numpy(), face_model.landmarks.numpy()
    maps = face_maps(mean, landmarks, {k: v.numpy() for k, v in face_model.attributes.items()})
    assert all(m.shape == (len(mean),) and m.min() >= 0 and m.max() <= 1.01 for m in maps.values())
    middle = lambda name: (maps[name][:, None] * mean).sum(0) / maps[name].sum()
    points = mean[landmarks]
    assert (
        points[8, 1]
        < middle("chin")[1]
        < points[57, 1]
        < middle("moustache")[1]
        < points[33, 1]
        < middle("cheek")[1] + 12
        < points[36, 1]
        < middle("lid")[1] + 3
    )
    assert all(
        abs(middle(name)[0]) < 3 for name in ("chin", "moustache", "nose", "cheek", "lid", "lash")
    )
    bare = face_maps(mean, landmarks, {})
    assert (
        not bare["lips"].any() and bare["cheek"].any()
    )  # a model that knows nothing but its landmarks


def test_the_detail_texture_repeats_and_is_normalised():
    texture = make_texture()
    assert texture.shape == (TEXTURE, TEXTURE, 3) and texture.dtype == np.float32
    np.testing.assert_allclose(texture[..., :2].std((0, 1)), 1, atol=0.01)
    np.testing.assert_allclose(texture[..., :2].mean((0, 1)), 0, atol=0.05)
    assert (
        texture[..., 2].min() >= -1
        and texture[..., 2].max() == 0
        and 0.01 < (texture[..., 2] < -0.3).mean() < 0.15
    )
    step = abs(np.diff(texture, axis=0, append=texture[:1]))
    assert step[-1, :, 1].mean() < 1.3 * step[:-1, :, 1].mean()  # no seam
    assert (
        step[..., 1].mean() < 0.3 * abs(np.diff(texture, axis=1))[..., 1].mean()
    )  # strands run along v


def test_head_shadows_know_the_sides_of_a_head(face_model):
    mean, points = face_model.mean.numpy(), face_model.mean[face_model.landmarks].numpy()
    inside = np.zeros(len(mean), bool)
    free, sky = head_shadows(mean, face_model.triangles.numpy(), inside)
    assert (
        free.shape == (len(mean), DIRECTIONS)
        and 0 <= free.min()
        and free.max() <= 1
        and 0 <= sky.min()
        and sky.max() <= 1.001
    )
    directions, landmarks = sphere_directions(), face_model.landmarks.numpy()
    left, front = directions[:, 0] > 0.8, directions[:, 2] > 0.8
    cheek_left, cheek_right = landmarks[14], landmarks[2]
    assert free[cheek_left][left].mean() > 0.8 and free[cheek_right][left].mean() < 0.05
    assert free[landmarks[30]][front].mean() > 0.95
    assert (
        sky[landmarks[30]] > 0.9 > sky[landmarks[39]]
    )  # the nose's tip sees more sky than the eye's inner corner
    assert points[14, 0] > 0 > points[2, 0]


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
    light = (
        np.stack([np.ones(500), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], 1)
        @ harmonics
    )
    cosine = normals @ direction
    np.testing.assert_allclose(
        light[:, 0], 0.25 + 0.5 * cosine + 15 / 32 * (cosine**2 - 1 / 3), atol=1e-6
    )
    assert abs(light[:, 0] - cosine.clip(0)).max() < 0.1
    np.testing.assert_allclose(light[:, 1:], light[:, :1] * [2, 0.5])


def test_no_scene_is_without_light():
    for seed in range(80):
        harmonics, lamps = scenes.draw_light(rng(seed))
        assert (
            harmonics.shape == (9, 3)
            and lamps.shape == (scenes.LAMPS, 8)
            and np.isfinite(harmonics).all()
        )
        lit = lamps[lamps.any(1)]
        np.testing.assert_allclose(np.linalg.norm(lit[:, :3], axis=1), 1, atol=1e-6)
        assert harmonics[0].mean() + lamps[:, 3:6].sum() > 0.2


def test_backgrounds_fill_the_picture_and_obstacles_are_rare():
    texture = make_texture()
    for seed in range(20):
        picture = np.full((17, 17, 3), np.nan, np.float32)
        develop.paint(
            np.nan_to_num(picture),
            scenes.draw_background(17, rng(seed)),
            texture,
            np.zeros((17, 17), np.float32),
        )
        boxes = scenes.draw_background(17, rng(seed))
        assert len(boxes) == scenes.PANELS and boxes["half"][0].min() >= 17
        assert boxes["opacity"][0] == 1
    shares = np.mean(
        [
            scenes.draw_obstacles(40, np.full(3, 0.5), np.full(3, 0.7), rng(seed))["opacity"].any()
            for seed in range(400)
        ]
    )
    assert 0.2 < shares < 0.35


def test_taps_are_a_gaussian():
    picture = rng().random((20, 20, 3)).astype(np.float32)
    for sigma in (0.6, 1.0, 2.3):
        weights = develop.taps(sigma)
        np.testing.assert_allclose(weights.sum(), 1, atol=1e-6)
        both = develop.soften(picture, weights, weights)
        np.testing.assert_allclose(
            both,
            gaussian_filter(picture, (sigma, sigma, 0), mode="nearest", radius=len(weights) // 2),
            atol=2e-5,
        )
    along_x = develop.soften(picture, develop.taps(1.5), develop.taps(0.01))
    np.testing.assert_allclose(
        along_x, gaussian_filter(picture, (0, 1.5, 0), mode="nearest", radius=4), atol=2e-5
    )


def test_a_developed_picture_is_neither_black_nor_white():
    scene = rng().random((40, 40, 3)).astype(np.float32)
    for brightness in (0.03, 0.3, 3.0):
        photos = [
            develop.develop(scene * brightness, scenes.draw_camera(40, rng(seed)))
            for seed in range(20)
        ]
        assert all(p.dtype == np.uint8 and p.shape == (40, 40, 3) for p in photos)
        assert 40 < np.mean(photos) < 215


def test_the_camera_does_what_its_numbers_say():
    plain = dict(
        exposure=0.2,
        automatic=1.0,
        balance=np.ones(3),
        blur=np.full(2, 0.01),
        gamma=2.2,
        contrast=1.0,
        saturation=1.0,
        sharpen=0.0,
        noise=0.0,
        coarse=1,
        hash=7,
        quality=0,
    )
    scene = np.full((32, 32, 3), [0.2, 0.1, 0.3], np.float32)
    photo = develop.develop(scene, plain)
    np.testing.assert_allclose(
        photo[5, 5], 255 * (np.array([0.2, 0.1, 0.3]) * 0.2 / 0.22) ** (1 / 2.2), atol=1
    )
    grey = develop.develop(scene, plain | dict(saturation=0.0))
    assert np.ptp(grey[5, 5].astype(int)) <= 1
    noisy = develop.develop(scene, plain | dict(noise=0.03)).astype(float) - photo
    assert abs(noisy.std() / 255 - 0.03) < 0.004 and abs(noisy.mean()) < 1
    assert np.array_equal(
        develop.develop(scene, plain | dict(noise=0.03)),
        develop.develop(scene, plain | dict(noise=0.03)),
    )
    assert not np.array_equal(
        develop.develop(scene, plain | dict(noise=0.03)),
        develop.develop(scene, plain | dict(noise=0.03, hash=8)),
    )
    edge = np.full((112, 112, 3), 0.1, np.float32)
    edge[:, 56:] *= 3
    steps = [
        np.diff(develop.develop(edge, plain | dict(sharpen=s))[5, :, 0].astype(int)).max()
        for s in (0.0, 1.0)
    ]
    assert steps[1] > 1.2 * steps[0]  # halos on both sides of it
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=40)
    assert np.array_equal(
        develop.develop(scene, plain | dict(quality=40)), np.asarray(Image.open(file))
    )


def test_a_hand_has_five_fingers_and_an_arm_that_comes_from_outside():
    for seed in range(20):
        arm, back, *fingers = scenes.draw_hand(100, np.full(3, 0.5), np.full(3, 0.7), rng(seed))
        way = np.array([np.cos(arm["angle"]), np.sin(arm["angle"])])
        elbow = arm["centre"] - way * arm["half"][0]
        assert len(fingers) == 5 and (np.abs(elbow - 50) > 40).any()
        assert all(
            np.linalg.norm(finger["centre"] - back["centre"]) < 3.5 * back["half"][0]
            for finger in fingers
        )
