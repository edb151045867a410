"""The long training: what it says of itself; a cooldown starts from what it has reached."""

import shutil

import pandas as pd
import pytest
from test_training import model, write_split  # noqa: F401 (fixture)

from e2far import weights
from e2far.pipeline import commands, long_training, params, trainings


def write_log(folder, recipe, images, ratios):
    (folder / recipe).mkdir(parents=True)
    kinds = ("neutral_ratio", "expression_ratio", "expressive_ratio")
    rows = pd.DataFrame(dict(images=images) | dict.fromkeys(kinds, ratios))
    between = pd.DataFrame(dict(images=[n + 1 for n in images]))  # rows without a validation
    log = pd.concat([rows.assign(remaining_s=7200.0), between]).sort_values("images")
    log.to_csv(folder / recipe / "log.csv", index=False)


@pytest.fixture
def nothing_committed(monkeypatch, tmp_path):
    monkeypatch.setattr(long_training, "CURVES", tmp_path / "committed.csv")


def test_the_report_compares_curves_at_the_same_count_of_pictures(
    tmp_path, nothing_committed, capsys
):
    write_log(tmp_path, "ours", [100_000, 200_000, 300_000], [0.9, 0.8, 0.7])
    write_log(tmp_path, "before", [100_000, 200_000], [0.95, 0.9])
    text = long_training.report(tmp_path, steps=10_000, batch_size=64)
    assert "0.30 of 0.6 million pictures" in text and "2.0 hours left" in text
    compared = "At 0.20 million pictures its expressive error lies 0.100 below"
    assert compared in text
    # The committed table is no progress of another folder, and is kept where there is no log.
    rows = long_training.curves(tmp_path)
    rows.to_csv(long_training.CURVES, index=False)
    committed = long_training.CURVES.read_bytes()
    write_log(tmp_path / "mine", "before", [400_000], [0.6])
    commands.train_long(tmp_path / "mine", status=True, profile="smoke")
    assert "has not begun" in capsys.readouterr().out
    assert long_training.CURVES.read_bytes() == committed
    shutil.rmtree(tmp_path / "mine")
    write_log(tmp_path / "mine", "ours", [400_000], [0.6])
    mine = long_training.curves(tmp_path / "mine")
    assert mine.recipe.tolist() == ["before", "before", "ours"] and mine.images.max() == 400_000


@pytest.fixture
def folder(tmp_path, nothing_committed, monkeypatch, model):
    """Of profile smoke, with a toy face model and stored faces in place of those made as it goes,
    whose workers take seconds to start."""
    model.save(tmp_path / "facemodel.npz")
    size, splits = params.load("long", "smoke").image_size, ("train", "validation", "test")
    for seed, split in enumerate(splits):
        write_split(tmp_path / "faces" / split, model, 16, seed, size)
    monkeypatch.setattr(commands, "make_faces", lambda *_: None)
    train_job = trainings.train_job
    monkeypatch.setattr(trainings, "train_job", lambda live, **config: train_job(**config))
    return tmp_path


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_it_is_stopped_cooled_down_and_taken_up_again(folder, monkeypatch, capsys):
    train = lambda **options: commands.train_long(folder, profile="smoke", **options)
    ours, cooled = folder / "ours", folder / "ours-cooldown"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainings, "save_network", interrupt)  # its last checkpoint is written
        train()
    train(cooldown=True)
    start = weights.load_network(ours / "reached.safetensors")
    assert start.metadata["images"] == 32 and start.config["trunk"] == "residual"
    train()  # and the training itself can still go on
    assert len(pd.read_csv(ours / "log.csv")) == 2
    assert long_training.curves(folder).recipe.unique().tolist() == ["ours", "ours-cooldown"]

    stored = (ours / "network.safetensors").read_bytes()
    train()  # what has ended is not trained again
    assert "has ended" in capsys.readouterr().out
    assert (ours / "network.safetensors").read_bytes() == stored
    shutil.rmtree(cooled)
    train(cooldown=True)  # and can be cooled down from its end
    assert (cooled / "network.safetensors").exists()


def test_the_recipe_before_differs_in_what_it_says(tmp_path):
    ours, before = (long_training.config(tmp_path, name, "smoke") for name in ("ours", "before"))
    assert before["network"]["trunk"] == "vgg16" and before["live"]["loose_boxes"] == 0
    assert ours["training"]["mirror"] and not before["training"]["mirror"]
    with pytest.raises(ValueError, match="'tomorrow': choose one of ours, before"):
        long_training.config(tmp_path, "tomorrow", "smoke")


def test_before_any_training_status_writes_nothing_and_a_cooldown_says_what_to_do(
    tmp_path, nothing_committed, capsys
):
    commands.train_long(tmp_path / "nothing", status=True, profile="smoke")
    assert "has not begun" in capsys.readouterr().out and not [*tmp_path.iterdir()]
    with pytest.raises(FileNotFoundError, match="begin the training first"):
        long_training.save_reached(tmp_path, "ours", {})
