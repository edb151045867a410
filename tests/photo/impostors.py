"""A hundred pictures that are no photo of a face, to test confidence with; none is calibrated on.

Drawings, renderings of a bare grey head, animals and things, and photos of faces that are spoilt.
"""

from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import sklearn.datasets
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFilter

from e2far import camera, facemodels, raster

SIDE = 200  # px of what is drawn
INK, PAPER = (30, 30, 30), (255, 255, 255)
YELLOW, SKIN, GREY = (255, 205, 40), (240, 200, 170), (150, 150, 155)


def canvas(paper=PAPER):
    picture = Image.new("RGB", (SIDE, SIDE), paper)
    return picture, ImageDraw.Draw(picture)


def disc(draw, x, y, radius, fill=None, tall=1.0, width=3, outline=INK):
    place = (x - radius, y - tall * radius, x + radius, y + tall * radius)
    draw.ellipse(place, fill=fill, outline=outline, width=width)


def head(fill=None, eyes=8, mouth="smile", tall=1.0, nose=False, paper=PAPER, width=4, ears=None):
    """A circle with two eyes, and what else a child draws."""
    picture, draw = canvas(paper)
    if ears == "cat":
        for left, right, tip in ((38, 85, 35), (162, 115, 165)):
            draw.polygon([(left, 70), (tip, 10), (right, 40)], fill=fill, outline=INK)
    if ears == "round":
        for x in (40, 160):
            disc(draw, x, 45, 26, fill, width=width)
    disc(draw, 100, 105, 72, fill, tall, width)
    for x in (72, 128):
        disc(draw, x, 88, eyes, INK if eyes < 12 else PAPER)
        if eyes >= 12:
            disc(draw, x + 2, 90, eyes / 2.5, INK)
    if nose:
        draw.line([(100, 95), (92, 120), (104, 122)], fill=INK, width=width)
    if mouth == "smile":
        draw.arc((65, 95, 135, 155), 20, 160, fill=INK, width=width + 1)
    elif mouth == "sad":
        draw.arc((68, 130, 132, 180), 200, 340, fill=INK, width=width + 1)
    elif mouth == "open":
        disc(draw, 100, 140, 18, (150, 30, 40))
    elif mouth == "line":
        draw.line([(75, 140), (125, 140)], fill=INK, width=width)
    elif mouth == "whiskers":
        draw.polygon([(92, 112), (108, 112), (100, 122)], fill=(230, 120, 140))
        for y in (112, 122, 132):
            draw.line([(20, 1.4 * y - 48), (82, y)], fill=INK, width=2)
            draw.line([(180, 1.4 * y - 48), (118, y)], fill=INK, width=2)
        draw.arc((80, 112, 100, 136), 0, 170, fill=INK, width=3)
        draw.arc((100, 112, 120, 136), 10, 180, fill=INK, width=3)
    return picture


def portrait(rng, fill=None):
    """A line drawing with hair, brows, almond eyes, nose and lips, by an unsteady hand."""
    picture, draw = canvas()
    shake = lambda points: [tuple(np.add(p, rng.normal(0, 1.5, 2))) for p in points]
    disc(draw, 100, 105, 60 + rng.normal(0, 4), fill, 1.3, 2)
    draw.arc((35, 15, 165, 150), 185, 355, fill=INK, width=int(rng.integers(3, 16)))
    for x in (75, 125):
        draw.line(shake([(x - 16, 80), (x, 74), (x + 16, 80)]), fill=INK, width=3)
        draw.polygon(shake([(x - 14, 95), (x, 88), (x + 14, 95), (x, 101)]), outline=INK)
        disc(draw, x, 95, 5, (70, 90, 120), width=1)
    draw.line(shake([(97, 90), (92, 122), (108, 124)]), fill=INK, width=2)
    draw.polygon(shake([(80, 148), (100, 143), (120, 148), (100, 157)]), outline=INK, fill=fill)
    return picture


def clock(hour, fill=PAPER):
    picture, draw = canvas((200, 190, 170))
    disc(draw, 100, 100, 80, fill, width=5)
    for n in range(12):
        ray = np.array([np.sin(n * np.pi / 6), -np.cos(n * np.pi / 6)])
        draw.line([tuple(100 + 65 * ray), tuple(100 + 74 * ray)], fill=INK, width=3)
    for angle, length in ((hour * np.pi / 6, 38), (hour * 2.1, 58)):
        tip = (100 + length * np.sin(angle), 100 - length * np.cos(angle))
        draw.line([(100, 100), tip], fill=INK, width=5)
    return picture


def house(wall):
    picture, draw = canvas((150, 190, 230))
    draw.rectangle((30, 60, 170, 190), fill=wall)
    draw.polygon([(20, 60), (100, 8), (180, 60)], fill=(140, 50, 40))
    for x in (52, 112):
        draw.rectangle((x, 80, x + 36, 112), fill=(60, 70, 90), outline=PAPER, width=3)
    draw.rectangle((80, 135, 120, 190), fill=(90, 60, 40))
    return picture


def socket(plate, body):
    picture, draw = canvas(body)
    draw.rounded_rectangle((25, 25, 175, 175), 20, fill=plate, outline=INK)
    disc(draw, 70, 85, 11, INK)
    disc(draw, 130, 85, 11, INK)
    disc(draw, 100, 135, 13, INK)
    return picture


def noise(rng, blur, grey):
    picture = Image.fromarray(
        rng.integers(0, 256, (SIDE, SIDE, 1 if grey else 3), np.uint8).repeat(3 if grey else 1, 2)
    )
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)), float) - 127
    return Image.fromarray((127 + blurred * (1 + 2 * blur)).clip(0, 255).astype(np.uint8))


def drawings():
    """Pairs (name, picture)."""
    rng, sky = np.random.default_rng(0), (170, 210, 240)
    kinds = dict(
        circle_with_two_eyes=dict(mouth=None),
        circle_with_large_eyes=dict(mouth=None, eyes=14),
        smiley=dict(fill=YELLOW),
        smiley_on_blue=dict(fill=YELLOW, paper=sky),
        large_eyed_smiley=dict(fill=YELLOW, eyes=16, mouth="open"),
        sad_smiley=dict(fill=YELLOW, mouth="sad"),
        outline_smile=dict(),
        outline_sad=dict(mouth="sad", tall=1.2),
        outline_with_nose=dict(nose=True, tall=1.25),
        outline_with_line=dict(nose=True, mouth="line", width=2),
        skin=dict(fill=SKIN, nose=True, tall=1.2),
        skin_on_blue=dict(fill=SKIN, nose=True, paper=sky, eyes=13),
        skin_open=dict(fill=SKIN, mouth="open", tall=1.25, nose=True),
        brown_skin=dict(fill=(120, 80, 55), mouth="smile", tall=1.2, eyes=13, nose=True),
        green_alien=dict(fill=(110, 190, 90), eyes=22, mouth="line"),
        grey_robot=dict(fill=GREY, eyes=13, mouth="line", paper=(70, 70, 80)),
        ghost=dict(fill=PAPER, paper=(20, 20, 40), mouth="open", eyes=11),
        cat_outline=dict(ears="cat", mouth="whiskers"),
        orange_cat=dict(ears="cat", mouth="whiskers", fill=(235, 150, 60), eyes=14),
        grey_cat=dict(ears="cat", mouth="whiskers", fill=GREY, eyes=14, paper=sky),
        bear=dict(ears="round", fill=(140, 95, 60), mouth="line"),
        panda=dict(ears="round", fill=PAPER, mouth="line", eyes=11, paper=(120, 170, 110)),
    )
    found = [(name, head(**kind)) for name, kind in kinds.items()]
    found += [(f"line_portrait_{i}", portrait(rng)) for i in range(4)]
    found += [(f"coloured_portrait_{i}", portrait(rng, SKIN)) for i in range(3)]
    found += [(f"clock_{hour}", clock(hour, fill)) for hour, fill in ((2, PAPER), (10, SKIN))]
    found += [("house", house((230, 215, 180))), ("brick_house", house((175, 110, 90)))]
    found += [("socket", socket((245, 245, 240), (200, 200, 195)))]
    found += [("dark_socket", socket((120, 110, 100), (190, 150, 120)))]
    for i, (blur, grey) in enumerate(((0, 0), (0, 1), (3, 0), (3, 1), (10, 0), (10, 1))):
        found.append((f"noise_{i}", noise(rng, blur, grey)))
    return [(name, np.asarray(picture)) for name, picture in found]


def statues(count=10):
    """The mean head of the shipped face model, bare and grey, as a stone bust is lit."""
    model, rng = facemodels.load_face_model("makehuman"), np.random.default_rng(0)
    alpha = torch.from_numpy(rng.normal(0, 0.8, (count, model.n_identity))).float()
    heads = model(alpha, torch.zeros(count, model.n_expression)).numpy()
    triangles = model.triangles.numpy()
    for i, vertices in enumerate(heads):
        yaw, pitch = np.radians(rng.uniform((-35, -10), (35, 10)))
        turn = camera.euler_to_matrix(torch.tensor([[yaw, pitch, 0.0]])).numpy()[0]
        turned = np.ascontiguousarray(vertices @ turn.T, np.float32)
        middle = turned[model.region.numpy()].mean(0)[:2]
        points = (turned[:, :2] - middle) * [1, -1] * (0.0052 * SIDE) + SIDE / 2
        stone = tuple((0.55 + 0.4 * rng.random()) * np.array([1, rng.uniform(0.94, 1), 0.95]))
        normals = raster.vertex_normals(turned, triangles)
        drawn = raster.render_plain(points, turned[:, 2], triangles, normals, SIDE, stone)
        picture, cover = drawn[0], drawn[1][..., None]
        back = rng.uniform(0, 1) * np.array([1, rng.uniform(0.8, 1), rng.uniform(0.7, 1.1)])
        yield (
            f"statue_{i}",
            (255 * (cover * picture + (1 - cover) * back)).clip(0, 255).astype(np.uint8),
        )


def photo(name):
    """(H, W, 3) of a picture that scikit-image, scikit-learn or Matplotlib brings along."""
    if name in ("china", "flower"):
        return sklearn.datasets.load_sample_image(f"{name}.jpg")
    if "." in name:
        path = Path(matplotlib.get_data_path(), "sample_data", name)
    else:
        path = next(Path(skimage.data.__file__).parent.glob(f"{name}.*"))
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# Squares (x0, y0, x1, y1) px; None: the middle one
THINGS = dict(
    chelsea=(20, -40, 400, 340), coffee=None, rocket=None, hubble_deep_field=None, brick=None,
    gravel=None, grass=None, page=None, text=None, moon=None, coins=None, clock_motion=None,
    horse=None, logo=None, motorcycle_left=None, retina=None, ihc=None, cell=None, phantom=None,
    chessboard_RGB=None, color=None, china=None, flower=(170, 40, 470, 340),
)  # fmt: skip


def things():
    for name, box in THINGS.items():
        yield name, photo(name), box
    yield "chelsea_far", photo("chelsea"), (0, -80, 451, 371)
    yield (
        "chelsea_grey",
        photo("chelsea").mean(2, keepdims=True).repeat(3, 2).astype(np.uint8),
        THINGS["chelsea"],
    )
    yield "coin", photo("coins"), (120, 10, 190, 80)
    yield "matplotlib", photo("logo2.png"), None
    yield "birthday", photo("Minduka_Present_Blue_Pack.png"), None


def dark(image):
    return (0.1 * image).round().astype(np.uint8)


def only(image, channel):
    return image * (np.arange(3) == channel).astype(np.uint8)


DAMAGE = {
    "dark": dark,
    "channels_bgr": lambda image: image[..., ::-1],
    "channels_gbr": lambda image: image[..., [1, 2, 0]],
    "only_red": partial(only, channel=0),
    "only_green": partial(only, channel=1),
    "only_blue": partial(only, channel=2),
    "negative": lambda image: 255 - image,
    "dark_grey": lambda image: dark(image.mean(2, keepdims=True).repeat(3, 2)),
}
FACES = {"astronaut": (160, 69, 286, 195), "grace_hopper.jpg": (139, 122, 384, 367)}


def damaged():
    """The photos of two faces, in which a program has mixed up the numbers."""
    for face, box in FACES.items():
        for kind, damage in DAMAGE.items():
            yield f"{kind}_{face}", np.ascontiguousarray(damage(photo(face))), box


def impostors():
    """All of them: rows (kind, name, picture (H, W, 3) uint8, box x0, y0, x1, y1)."""
    rows = [("drawing", name, picture, (0, 0, SIDE, SIDE)) for name, picture in drawings()]
    rows += [("statue", name, picture, (0, 0, SIDE, SIDE)) for name, picture in statues()]
    rows += [("thing or animal", *one) for one in things()]
    rows += [("damaged", *one) for one in damaged()]
    return [(kind, name, picture, box or middle(picture)) for kind, name, picture, box in rows]


def middle(picture):
    height, width = picture.shape[:2]
    side = 0.8 * min(height, width)
    return ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
