"""The long training: what it says of itself, and that a cooldown starts from what it has reached."""
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from e2far import jobs, longrun, network
from e2far.morphable import toy_model


def write_log(folder, recipe, images, ratios):
    (folder / recipe).mkdir(parents=True)
    rows = pd.DataFrame(dict(images=images, neutral_ratio=ratios, expression_ratio=ratios, expressive_ratio=ratios, remaining_s=7200.))
    between = pd.DataFrame(dict(images=[n + 1 for n in images]))            # rows without a validation
    pd.concat([rows, between]).sort_values("images").to_csv(folder / recipe / "log.csv", index=False)


@pytest.fixture
def nothing_committed(monkeypatch, tmp_path):
    monkeypatch.setattr(longrun, "CURVES", tmp_path / "committed.csv")


def test_the_report_compares_curves_at_the_same_count_of_pictures(tmp_path, nothing_committed):
    write_log(tmp_path, "ours", [100_000, 200_000, 300_000], [.9, .8, .7])
    write_log(tmp_path, "before", [100_000, 200_000], [.95, .9])
    text = longrun.report(tmp_path, steps=10_000, batch_size=64)
    assert "0.30 of 0.6 million pictures" in text and "2.0 hours left" in text
    assert "At 0.20 million pictures its expressive error lies 0.100 below" in text
    assert "on average so far 0.075 below" in text                                  # (.05 + .10) / 2


def test_curves_of_another_machine_stay_where_there_is_no_log(tmp_path, nothing_committed):
    write_log(tmp_path / "other", "before", [100_000], [.95])
    longrun.curves(tmp_path / "other").to_csv(longrun.CURVES, index=False)
    write_log(tmp_path / "mine", "ours", [100_000], [.9])
    assert longrun.curves(tmp_path / "mine").recipe.tolist() == ["before", "ours"]


def test_a_committed_table_alone_is_reported(tmp_path, nothing_committed):
    write_log(tmp_path / "other", "ours", [100_000, 200_000], [.9, .8])
    write_log(tmp_path / "other", "before", [100_000, 200_000], [.95, .9])
    longrun.curves(tmp_path / "other").to_csv(longrun.CURVES, index=False)
    assert "At 0.20 million pictures" in longrun.report(tmp_path / "nothing", 10_000, 64)


def test_without_measurements_it_says_so(tmp_path, nothing_committed):
    assert "not measured anything" in longrun.report(tmp_path, 100, 64)


def test_other_recipes_are_refused(tmp_path):
    result = CliRunner().invoke(longrun_app(), [str(tmp_path), "--recipe", "tomorrow"])
    assert result.exit_code == 2 and "ours or before" in result.output


def longrun_app():
    import typer
    app = typer.Typer()
    app.command()(longrun.run)
    return app


def test_it_is_stopped_cooled_down_and_taken_up_again(tmp_path, nothing_committed, monkeypatch):
    toy_model(dtype=torch.float32).save(tmp_path / "facemodel.npz")
    longrun.prepare(tmp_path, "smoke", judged=dict(validation=3, test=3, train=8))
    config = longrun.job(tmp_path, profile="smoke")
    phase = dict(steps=4, heads_rate=1e-3, trunk_rate=1e-3, schedule="constant")
    less = dict(phases=[phase], batch_size=8, checkpoint_every=2, validate_every=2)
    config |= dict(network=config["network"] | dict(width=1 / 32), training=config["training"] | less, live=None)

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "save_network", interrupt)            # stopped with its last checkpoint written
        with pytest.raises(KeyboardInterrupt):
            jobs.train_job(**config)
    longrun.reach(tmp_path, "ours", config["network"])
    start = network.load_network(tmp_path / "ours" / "reached.safetensors")
    assert start.metadata["images"] == 32
    cooldown = config | dict(folder=tmp_path / "ours-cooldown", start=tmp_path / "ours" / "reached.safetensors")
    jobs.train_job(**cooldown)
    jobs.train_job(**config)                                        # and the training itself can still go on
    assert len(pd.read_csv(tmp_path / "ours" / "log.csv")) == 2
    assert longrun.curves(tmp_path).recipe.unique().tolist() == ["ours", "ours-cooldown"]


def test_a_cooldown_before_any_training_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="begin the training first"):
        longrun.reach(tmp_path, "ours", {})


def interrupt(*_, **__):
    raise KeyboardInterrupt
