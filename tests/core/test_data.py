import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from e2far import data, files


def columns(n, start=0, size=16, identity=6):
    generator = torch.Generator().manual_seed(start)
    return dict(
        image=torch.randint(0, 256, (n, size, size, 3), generator=generator, dtype=torch.uint8),
        identity=torch.randn(n, identity, generator=generator),
        expression=torch.randn(n, 4, generator=generator),
        pose=torch.randn(n, 9, generator=generator),
        landmarks=torch.rand(n, 68, 2, generator=generator),
        person=torch.arange(start, start + n),
    )


@pytest.fixture
def folder(tmp_path):
    for number, (start, n) in enumerate(((0, 5), (5, 5), (10, 2))):
        data.write_shard(data.shard_path(tmp_path, number), columns(n, start))
    data.write_index(tmp_path, 12, 5)
    return tmp_path


def test_shards_read_as_one_dataset(folder):
    faces = data.Faces(folder)
    assert len(faces) == 12 and faces.image_size == 16
    assert torch.equal(faces.person, torch.arange(12))
    for i, (start, n, row) in {0: (0, 5, 0), 6: (5, 5, 1), 11: (10, 2, 1)}.items():
        truth, item = columns(n, start), faces[i]
        assert torch.equal(item["image"], truth["image"][row].permute(2, 0, 1).float() / 255)
        assert all(torch.equal(item[name], truth[name][row]) for name in data.LABELS)
    assert torch.equal(faces[-1]["image"], faces[11]["image"])
    assert torch.equal(faces[np.int64(6)]["image"], faces[6]["image"])
    for outside in (12, -13, [3, 12], [-13], [], [1.5], faces.person == 3):
        with pytest.raises(IndexError):
            faces[outside]


def test_a_batch_and_a_column_are_their_items(folder):
    faces, chosen = data.Faces(folder), [7, 0, 11, 7]
    batch = faces[chosen]
    for name, column in batch.items():
        assert torch.equal(column, torch.stack([faces[i][name] for i in chosen]))
    for name in data.LABELS:
        assert torch.equal(getattr(faces, name)[chosen], batch[name])
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert faces.gather(torch.tensor(chosen))["image"].dtype == torch.uint8
    assert torch.equal(faces[2:5]["person"], torch.tensor([2, 3, 4]))
    batch["image"].zero_()
    batch["pose"].zero_()  # a copy: the file stays
    assert faces[7]["image"].any() and faces[7]["pose"].any()
    with pytest.raises(AttributeError, match="albedo"):
        faces.albedo


def test_a_batch_opens_only_its_shards_and_few_stay_open(folder, monkeypatch):
    opened, read = [], data._read
    monkeypatch.setattr(data, "_read", lambda path: opened.append(path.name[6:12]) or read(path))
    monkeypatch.setattr(data, "OPEN_SHARDS", 2)
    faces = data.Faces(folder)
    opened.clear()
    for _ in range(3):
        assert faces.gather([6, 9, 10])["person"].tolist() == [6, 9, 10]
    assert opened == ["000001", "000002"]
    assert faces.gather([0, 6, 11])["person"].tolist() == [0, 6, 11]
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert maps.read_text().count(str(folder)) <= 3  # two, and the one that a new one replaces


def test_works_in_a_dataloader_and_in_another_process(folder):
    faces = data.Faces(folder)
    assert faces.identity.shape == (12, 6) and len(pickle.dumps(faces)) < 1000
    for workers in (0, 1):
        loader = DataLoader(faces, batch_size=5, collate_fn=dict, num_workers=workers)
        assert torch.cat([batch["person"] for batch in loader]).tolist() == list(range(12))


def test_damaged_shards_and_indices_are_named_when_they_are_opened(folder):
    path, index = data.shard_path(folder, 1), folder / data.INDEX
    for content in (path.read_bytes()[:-7], b""):
        path.write_bytes(content)
        faces = data.Faces(folder)
        assert faces.gather([0, 11])["person"].tolist() == [0, 11]  # other shards can be read
        for use in (lambda: faces.gather([0, 7]), lambda: faces.person):
            with pytest.raises(ValueError, match="shard-000001.*`dvc repro synthesis`"):
                use()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="shard-000001.*`dvc repro synthesis`"):
        data.Faces(folder)[7]
    for content in ("", '{"faces": 12, "sh', "[]", "{}"):
        index.write_text(content)
        with pytest.raises(ValueError, match="shards.json.*`dvc repro synthesis`"):
            data.Faces(folder)
    index.unlink()
    with pytest.raises(FileNotFoundError, match="of a finished split.*`dvc repro synthesis`"):
        data.Faces(folder)


def test_shards_that_do_not_fit_are_named(folder):
    path = data.shard_path(folder, 2)
    for bad, message in (
        (columns(2, identity=7), "identity is"),
        (columns(2, size=24), "image is"),
        (columns(2) | dict(pose=torch.zeros(3, 9)), "pose is"),
        (columns(3), r"image is \(3, 16, 16, 3\) uint8, not \(2, 16, 16, 3\)"),
        ({k: v for k, v in columns(2).items() if k != "pose"}, "pose"),
        (columns(2) | dict(image=torch.zeros(2, 16, 16, 3)), "uint8"),
    ):
        data.write_shard(path, bad)
        with pytest.raises(ValueError, match=f"shard-000002.*{message}"):
            data.Faces(folder)[11]


def test_writers_of_the_same_shard_do_not_meet(tmp_path):
    """Several workers may make one shard, when one was taken for dead: it is whole at all times."""
    path, content = tmp_path / "shard", columns(40)
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(data.write_shard, path, content) for _ in range(40)]
        while not all(write.done() for write in writes):
            if path.exists():
                assert len(data._read(path)["person"]) == 40
    assert [write.exception() for write in writes] == [None] * 40
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_pictures_can_be_reduced(folder):
    whole, small = data.Faces(folder), data.Faces(folder, 8)
    assert small.image_size == 8 and whole.image_size == 16 and small[3]["image"].shape == (3, 8, 8)
    torch.testing.assert_close(small.landmarks, whole.landmarks / 2)
    torch.testing.assert_close(small.gather([3, 1])["landmarks"], whole.landmarks[[3, 1]] / 2)
    torch.testing.assert_close(small.identity, whole.identity)
    assert pickle.loads(pickle.dumps(small)).image_size == 8
    assert abs(small[3]["image"].mean() - whole[3]["image"].mean()) < 0.03
    with pytest.raises(ValueError, match="pictures of 16 px, not 32"):
        data.Faces(folder, 32)
