import html
import json
import re

import numpy as np
from PIL import Image

from e2far import web
from e2far.morphable import toy_model


def pictures(count):
    return np.random.default_rng(0).integers(0, 255, (count, 12, 12, 3), dtype=np.uint8)


def test_a_slider_a_row_holds_its_pictures_and_starts_where_it_is_told():
    one, two, three, four, five = pictures(5)
    rows = {"mode 1": {"-1": one, "0": two, "1": three}, "smile": {"0": four, "1": five}}
    made = web.sliders(rows, start="0", shows='a "face"').data
    held = [json.loads(html.unescape(x)) for x in re.findall(r'data-frames="([^"]*)"', made)]
    assert [[label for label, *_ in frames] for frames in held] == [["-1", "0", "1"], ["0", "1"]]
    assert re.findall(r'value="(\d)"', made) == ["1", "0"]
    assert re.search(r'<img [^>]*src="([^"]*)"', made)[1] == held[0][1][1]
    assert html.unescape(re.search(r'<img alt="([^"]*)"', made)[1]) == held[0][1][2]
    assert held[1][1][2] == 'a "face", smile: 1'


def test_a_page_in_a_frame_is_the_page():
    page = "<p title=\"a & b\">'text'</p>"
    made = web.page(page).data
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', made)[1]) == page


def test_a_head_turns_to_both_sides_and_the_file_repeats(tmp_path):
    toy = toy_model()
    start, colours = toy.mean.numpy(), np.full(toy.mean.shape, 0.5)
    frames = web.turning(start, start + [[0, 20, 0]], toy, colours, frames=8, size=40)
    assert len(frames) == 8 and (frames[2] != frames[6]).any() and (frames[0] != frames[4]).any()
    shown = web.animation(frames, tmp_path / "made" / "turning.webp", seconds=2).data
    assert Image.open(tmp_path / "made" / "turning.webp").n_frames == 8
    assert shown.startswith("<img")
