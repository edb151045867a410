"""What moves on a page that runs no kernel: sliders over pictures made ahead, animations, pages."""

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from e2far import plots
from e2far.files import extra

with extra("notebooks"):
    import matplotlib.pyplot as plt
    from IPython.display import HTML

MOVED = """const frames = JSON.parse(this.dataset.frames)[this.value];
Object.assign(this.closest('.frames').querySelector('img'), {src: frames[1], alt: frames[2]});
this.nextElementSibling.value = frames[0]"""
ROW = """<label style="display: grid; grid-template-columns: 10em 1fr 4em; gap: .6em">{name}
<input type="range" min="0" max="{last}" value="{at}" data-frames="{frames}" oninput="{moved}">
<output>{label}</output></label>"""
FRAMES = """<div class="frames" style="display: flex; flex-wrap: wrap; align-items: center; gap: 1em">
<img alt="{alt}" src="{picture}" width="{width}">
<div style="flex: 1; min-width: 18em; max-width: 34em">{rows}</div></div>"""


def address(picture, kind="JPEG", **options):
    """The address, which holds the file, of a uint8 picture (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    content = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{content}"


def sliders(rows, start, shows="a face"):
    """Sliders over pictures made ahead, shown one at a time: that of the slider moved last.

    rows: what a slider changes -> {label: uint8 picture (H, W, 3) or figure, which is closed}
    start: a label of every row    shows: what all pictures do, for those who cannot see them
    """
    made, lines = [], []
    for name, pictures in rows.items():
        pictures = {label: _picture(shown) for label, shown in pictures.items()}
        frames = [
            (label, address(picture, "WEBP", quality=70), f"{shows}, {name}: {label}")
            for label, picture in pictures.items()
        ]
        at = list(pictures).index(start)
        look = dict(name=name, label=start, at=at, last=len(frames) - 1)
        shown = dict(picture=frames[at][1], alt=html.escape(frames[at][2]))
        made.append(shown | dict(width=pictures[start].shape[1]))
        lines.append(ROW.format(**look, frames=html.escape(json.dumps(frames)), moved=MOVED))
    return HTML(FRAMES.format(**made[0], rows="".join(lines)))


def _picture(shown):
    if isinstance(shown, np.ndarray):
        return shown
    file = io.BytesIO()
    shown.savefig(file, dpi=96, bbox_inches="tight")
    plt.close(shown)
    return np.asarray(Image.open(file).convert("RGB"))


def page(text, height=560):
    """A whole HTML page, `text`, in a frame of its own, height in px."""
    style = f"width: 100%; height: {height}px; border: 0"
    return HTML(f'<div><iframe srcdoc="{html.escape(text)}" style="{style}"></iframe></div>')


def animation(pictures, path, seconds):
    """Write uint8 pictures (H, W, 3) to a WebP that repeats after `seconds`, and show it."""
    first, *others = map(Image.fromarray, pictures)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    time = dict(duration=round(1000 * seconds / len(pictures)), loop=0)
    first.save(path, save_all=True, append_images=others, quality=78, method=3, **time)
    content = base64.b64encode(Path(path).read_bytes()).decode()
    return HTML(f'<img alt="{Path(path).stem}" src="data:image/webp;base64,{content}">')


def turning(start, end, model, colours, frames=48, size=340, yaw_deg=40):
    """Pictures of a head that turns from side to side, and from `start` to `end` and back.

    start, end: (N, 3) mm    colours: (N, 3) in [0, 1]
    """
    pictures = []
    for phase in np.linspace(0, 2 * np.pi, frames, endpoint=False):
        share = (1 - np.cos(phase)) / 2
        shape = (1 - share) * start + share * end
        yaw = float(yaw_deg * np.sin(phase))
        head = plots.face_images(shape[None], model, size, yaw, [colours], side_mm=320)
        pictures.append(head[0])
    return pictures
