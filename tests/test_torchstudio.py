import numpy as np
import pytest
import torch
from torch.testing import assert_close

from e2far import appearance, morphable, rasterize, synthesis, torchstudio

SIZE = 52           # no multiple of 8: JPEG has blocks that stick out


@pytest.fixture(scope="module")
def studio(face_model):
    return synthesis.Studio(face_model, SIZE)


@pytest.fixture(scope="module")
def other(studio):
    return torchstudio.TorchStudio(studio)


def recipe(studio, k, **looks):
    """The recipe of a person and picture numbered k."""
    rng = np.random.default_rng([9, k])
    identity, drawn = studio.draw_person(9, "train", k)
    return studio.draw_scene(studio.dress(identity, drawn | looks), studio.draw_expression(rng), studio.draw_angles(rng), rng)


@pytest.fixture(scope="module")
def recipes(studio):
    """Twelve that have everything between them: glasses dark and clear, beards that stand out, bald heads and hair, caps, stripes, freckles, each kind of thing in the way."""
    full = np.ones(3)
    looks = [dict(glasses=1., lens_dark=1.), dict(glasses=1., lens_dark=0.), dict(beard=full, beard_length=9.), dict(shell=0., scalp=0.), dict(shell=1., covered=0.), dict(shell=1., covered=1.),
             dict(freckles=.8, pores=.09), dict(cloth_stripes=.5, stubble=.5), dict(wrinkles=.9, age_lines=.9),
             dict(shadow_strength=.6, lash=.9, lips_strength=.9), dict(brow_strength=1., brow_width=1.5), {}]
    made = [recipe(studio, k, **change) for k, change in enumerate(looks)]
    obstacles = [appearance.draw_obstacles(SIZE, full * .3, full * .6, np.random.default_rng(seed)) for seed in range(60)]
    obstacles = sorted((boxes for boxes in obstacles if boxes.any()), key=lambda boxes: (boxes[:, 7] > 0).sum())
    for r, boxes in zip(made, obstacles[:3] + obstacles[-3:]):
        r["obstacles"] = boxes
    made[6]["background"][:, 15] = 2.                                                            # stripes so strong that they would be darker than black
    made[7]["person"]["worn"][studio.wardrobe.parts["clothes"]] = 0
    return made


def developed(recipes, **shot):
    return [r | dict(shot=r["shot"] | shot) for r in recipes]


def difference(studio, other, recipes):
    """Levels (B, 3, S, S) between the two ways to make pictures."""
    expected = torch.from_numpy(np.stack([studio.expose(r)["image"] for r in recipes])).permute(0, 3, 1, 2)
    image = other(other.collate(recipes))["image"]
    assert image.dtype == torch.uint8 and image.shape == expected.shape and image.is_contiguous(memory_format=torch.channels_last) and expected.double().std() > 30
    return (image.int() - expected.int()).abs().double()


@pytest.mark.parametrize("noise, coarse", [(0., 1), (.04, 1), (.04, 2)])
def test_pictures_are_those_of_the_studio(studio, other, recipes, noise, coarse):
    found = difference(studio, other, developed(recipes, noise=noise, coarse=coarse, quality=0, blur=np.array([.3, .3])))
    assert found.mean() < .02 and found.flatten(1).mean(1).max() < .05 and (found <= 4).double().mean() > .9995


def test_pictures_through_the_whole_camera(studio, other, recipes):
    found = difference(studio, other, [r | dict(shot=r["shot"] | dict(quality=q, blur=np.array(blur))) for r, q, blur in zip(recipes, range(30, 96, 5), [(.3, 1.6), (1.4, .2), (.05, .8)] * 4)])
    assert found.mean() < .3 and found.flatten(1).mean(1).max() < 1 and (found <= 4).double().mean() > .99


def test_one_sample_a_pixel_and_a_model_without_hair_or_eyes():
    plain = synthesis.Studio(morphable.toy_model(dtype=torch.float32), SIZE, antialias=1)
    found = difference(plain, torchstudio.TorchStudio(plain), developed([recipe(plain, k) for k in range(3)], quality=0))
    assert found.mean() < .05 and (found <= 4).double().mean() > .999


def test_vertices_are_where_the_studio_has_them(studio, other, recipes):
    dressed = [r for r in recipes if r["person"]["worn"][studio.wardrobe.parts["clothes"]].any()]           # where clothes that are not worn lie is left open
    points, nearness, light, detail, eye = other.scene(other.collate(dressed))
    for k, r in enumerate(dressed):
        expected = [torch.from_numpy(np.asarray(x, np.float32)) for x in studio.scene(r)]
        for found, wanted, atol, rtol in zip((points[k], nearness[k], light[k], detail[k], eye[k]), expected, (2e-3, 0, 1e-3, 2e-4, 1e-5), (0, 1e-5, 1e-3, 1e-6, 1e-5)):
            assert_close(found, wanted, atol=atol, rtol=rtol)


def test_photograph_is_the_studios(studio, other):
    persons, pictures = [4, 4, 0], [0, 3, 1]
    batch = other.photograph(2, "test", persons, pictures)
    assert set(batch) == {"image", "identity", "expression", "pose", "landmarks", "person"} and batch["person"].tolist() == persons
    for k, numbers in enumerate(zip(persons, pictures)):
        row = studio.photograph(2, "test", *numbers)
        for name in torchstudio.LABELS:
            assert torch.equal(batch[name][k], torch.from_numpy(row[name]))
        assert np.abs(batch["image"][k].permute(1, 2, 0).numpy().astype(float) - row["image"]).mean() < 1


def test_a_batch_is_its_pictures_and_comes_out_the_same_again(studio, other, recipes):
    together = other(other.collate(recipes))
    assert torch.equal(other(other.collate(recipes))["image"], together["image"])
    small = torchstudio.TorchStudio(studio, chunk=5000)(other.collate(recipes))["image"]
    assert torch.equal(small, together["image"])
    for k in (0, 5, 11):
        alone = other(other.collate(recipes[k:k + 1]))
        assert all(torch.equal(alone[name][0], together[name][k]) for name in torchstudio.LABELS)
        assert (alone["image"][0].int() - together["image"][k]).abs().double().mean() < .1


def test_the_studio_stays_as_it_was(studio, other):
    """What moves to a device, or to another precision, are copies."""
    moved = torchstudio.TorchStudio(studio).to("meta")
    assert moved.painter.shadows.device.type == moved.identity_basis.device.type == "meta" and studio.painter.shadows.device.type == "cpu"


def test_samples_are_lit_by_their_triangles(studio, other):
    """Random triangles of the mesh, with random light, detail and eyes, some without detail."""
    generator = np.random.default_rng(0)
    draw = lambda *shape: generator.random(shape, np.float32)
    n, side = len(studio.eyes), 2 * SIZE
    seen = generator.choice([-1, *range(0, len(studio.triangles), 7), *np.flatnonzero(other.is_eye.numpy())], (2, side, side)).astype(np.int32)
    weights = generator.dirichlet(np.ones(3), (2, side, side)).astype(np.float32)[..., :2]
    light, detail, eye = draw(2, n, 3), draw(2, n, 5) * [900, 900, .4, .4, .4] * (generator.random((2, n, 1)) < [1, 1, .5, .5, .5]), draw(2, 21)
    detail = detail.astype(np.float32)
    picture, coverage = other.resolve(*map(torch.from_numpy, (seen, weights, light, detail, eye)))
    for k in range(2):
        expected = np.zeros((SIZE, SIZE, 3), np.float32)
        cover = rasterize.resolve(seen[k], weights[k], studio.triangles, light[k], detail[k], studio.texture, studio.eyes, eye[k], expected, 2)
        assert_close(coverage[k], torch.from_numpy(cover))
        apart = (picture[k] - torch.from_numpy(expected)).abs()
        assert apart.mean() < 1e-3 and (apart < 1e-3).double().mean() > .999


def test_eyes(studio):
    generator = torch.Generator().manual_seed(0)
    x, y = 1.2 * torch.rand(2, 400, generator=generator) - .6
    eye, light = torch.rand(400, 21, generator=generator), torch.rand(400, 3, generator=generator)
    eye[:, 6], eye[:, 7] = .5, .2
    eye[:, [9, 10, 13, 14, 17, 18]] -= .5
    expected = light.clone()
    for k in range(400):
        rasterize.eye_colour(x[k].numpy(), y[k].numpy(), eye[k].numpy(), expected[k].numpy())
    assert_close(torchstudio.eye_colour(x, y, eye, light), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["background", "obstacles"])
def test_boxes(studio, kind):
    draw = appearance.draw_background if kind == "background" else lambda size, rng: appearance.draw_obstacles(size, np.full(3, .4), np.full(3, .6), rng)
    boxes = np.stack([draw(40, np.random.default_rng(seed)) for seed in range(40)]).astype(np.float32)
    generator = np.random.default_rng(0)
    pictures, coverage = generator.random((40, 40, 40, 3), np.float32), generator.integers(0, 2, (40, 40, 40)).astype(np.float32)
    found = torch.from_numpy(pictures.copy())
    torchstudio.paint(found, torch.from_numpy(boxes), torch.from_numpy(studio.texture), torch.from_numpy(coverage))
    for picture, row, cover in zip(pictures, boxes, coverage):
        rasterize.paint(picture, row, studio.texture, cover)
    apart = np.abs(found.numpy() - pictures)
    assert apart.mean() < 1e-4 and (apart < 1e-3).mean() > .999


def test_blur_at_every_width_at_once():
    picture = torch.rand(5, 17, 17, 3, generator=torch.Generator().manual_seed(0))
    sigmas = [(.1, .1), (.3, 2.), (1., .5), (2.5, 2.5), (.8, 9.)]                # the last reaches beyond the whole picture
    taps = [[appearance.taps(s) for s in pair] for pair in sigmas]
    longest = max(len(t) for pair in taps for t in pair)
    padded = torch.from_numpy(np.stack([[np.pad(t, (longest - len(t)) // 2) for t in pair] for pair in taps]))
    expected = np.stack([rasterize.soften(p.numpy(), *pair) for p, pair in zip(picture, taps)])
    assert_close(torchstudio.soften(picture, padded), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_noise_has_the_same_bits():
    coarse, number = [1, 2, 1], [0, 123456789, 2 ** 31 - 1]
    found = torchstudio.noise(21, torch.tensor(coarse), torch.tensor(number))
    for k in range(3):
        expected = np.zeros((21, 21, 3), np.float32)
        rasterize.add_noise(expected, np.float32(1), coarse[k], number[k])
        assert_close(found[k], torch.from_numpy(expected), atol=1e-6, rtol=1e-6)
    assert abs(found.std() - 1) < .1


@pytest.mark.parametrize("size", [16, 30, 33, 48])
def test_jpeg_against_libjpeg(size):
    """A smooth picture with edges, colours and noise, at many qualities together."""
    generator, quality = np.random.default_rng(size), np.array([1, 10, 30, 49, 50, 75, 95, 100])
    y, x = np.mgrid[:size, :size] / size
    wave = lambda: np.sin(generator.uniform(2, 9) * x + generator.uniform(2, 9) * y + generator.uniform(0, 6)) * 100 + 128 + 60 * (x > generator.random())
    pictures = np.stack([np.stack([wave() for _ in range(3)], -1) + generator.normal(0, 6, (size, size, 3)) for _ in quality]).clip(0, 255).astype(np.uint8)
    expected = np.stack([appearance.jpeg(p, int(q)) for p, q in zip(pictures, quality)]).astype(int)
    found = torchstudio.jpeg(torch.from_numpy(pictures), torch.from_numpy(quality)).numpy().astype(int)
    assert np.abs(found - expected).mean() < .3 < np.abs(expected - pictures).mean() and np.abs(found - expected).max() < 24
