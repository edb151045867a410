import xml.etree.ElementTree as ET

import pandas as pd
import pytest
import torch

from e2far.analysis.features import matched_grids
from e2far.network import E2FAR
from e2far.pipeline import training_tables
from e2far.pipeline.diagram import network_svg


def test_the_drawing_tells_the_sizes_of_every_network():
    with torch.device("meta"):
        networks = {"paper": E2FAR(), "small": E2FAR(7, 5, image_size=80, width=0.125)}
    drawn = ET.fromstring(network_svg(networks))
    told = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for size in ("512×11²", "512×5²", "64×5²", "4096, 1024, 199", "512, 128, 7", "512, 128, 5"):
        assert size in told
    assert {"paper", "small", "fusion-CNN", "conv8"} <= set(told)


def test_a_difference_is_decided_where_all_seeds_agree_by_much():
    table = pd.DataFrame(
        dict(seed=seed, start=start, neutral=0.9 + shift + 0.001 * seed, expression=0.9)
        for seed in range(3)
        for start, shift in (("one", -0.1), ("base", 0.0))
    )
    table.loc[0, "expression"] = 0.91
    rows = training_tables.over_seeds(table, "start", "base").set_index("error")
    assert rows.difference["neutral"] == pytest.approx(-0.1)
    assert list(rows.verdict) == ["better", "undecided"]
    assert training_tables.said(rows.loc["neutral"]) == "**a gain** (-0.1000 [-0.1000, -0.1000])"


def test_to_count_the_cells_of_maps_leaves_batch_norm_as_it_was():
    network = E2FAR(2, 2, image_size=48, width=0.0625, batch_norm=True)
    before = {name: x.clone() for name, x in network.state_dict().items()}
    matched_grids(network)
    assert network.training and network.trunk.training
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
