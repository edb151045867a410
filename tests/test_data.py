import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from e2far import data


def columns(n, start=0, size=16, identity=6):
    generator = torch.Generator().manual_seed(start)
    return dict(image=torch.randint(0, 256, (n, size, size, 3), generator=generator, dtype=torch.uint8), identity=torch.randn(n, identity, generator=generator),
                expression=torch.randn(n, 4, generator=generator), pose=torch.randn(n, 9, generator=generator), landmarks=torch.rand(n, 68, 2, generator=generator),
                person=torch.arange(start, start + n))


@pytest.fixture
def folder(tmp_path):
    for number, (start, n) in enumerate(((0, 5), (5, 3), (8, 4))):
        data.write_shard(tmp_path / f"shard-{number:05d}.safetensors", columns(n, start))
    return tmp_path


def test_shards_read_as_one_dataset(folder):
    faces = data.Faces(folder)
    assert len(faces) == 12 and faces.image_size == 16
    assert torch.equal(faces.person, torch.arange(12))
    for i, (start, n, row) in {0: (0, 5, 0), 6: (5, 3, 1), 11: (8, 4, 3)}.items():
        truth, item = columns(n, start), faces[i]
        assert item["image"].shape == (3, 16, 16) and torch.equal(item["image"], truth["image"][row].permute(2, 0, 1).float() / 255)
        assert all(torch.equal(item[name], truth[name][row]) for name in data.LABELS)
    assert torch.equal(faces[-1]["image"], faces[11]["image"])
    with pytest.raises(IndexError):
        faces[12]


def test_a_batch_is_its_items_in_channels_last(folder):
    faces, chosen = data.Faces(folder), [7, 0, 11, 7]
    batch = faces[chosen]
    assert all(torch.equal(batch[name], torch.stack([faces[i][name] for i in chosen])) for name in batch)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last) and batch["image"].dtype == torch.float32
    assert faces.gather(torch.tensor(chosen))["image"].dtype == torch.uint8
    assert torch.equal(faces[2:5]["person"], torch.tensor([2, 3, 4]))


def test_works_in_a_dataloader_and_in_another_process(folder):
    loader = DataLoader(data.Faces(folder), batch_size=5, collate_fn=lambda batch: batch)
    assert torch.cat([batch["person"] for batch in loader]).tolist() == list(range(12))
    assert len(pickle.loads(pickle.dumps(data.Faces(folder)))) == 12


def test_missing_empty_truncated_and_garbage_shards_are_named(folder):
    with pytest.raises(FileNotFoundError, match="dvc repro synthesis"):
        data.Faces(folder / "nowhere")
    path = folder / "shard-00001.safetensors"
    for content in (path.read_bytes()[:-7], path.read_bytes()[:100], b"", b"garbage" * 30):
        path.write_bytes(content)
        with pytest.raises(OSError, match="shard-00001.safetensors is truncated .* `dvc repro synthesis`"):
            data.Faces(folder)


def test_shards_that_do_not_fit_are_named(folder):
    path = folder / "shard-00002.safetensors"
    for bad, message in ((columns(3, identity=7), "identity is"), (columns(3, size=24), "image is"), (columns(3) | dict(pose=torch.zeros(2, 9)), "different"),
                         ({k: v for k, v in columns(3).items() if k != "pose"}, "lacks pose"), (columns(0), "no length"), (columns(3) | dict(image=torch.zeros(3, 16, 16, 3)), "uint8")):
        data.write_shard(path, bad)
        with pytest.raises(ValueError, match=f"shard-00002.*{message}"):
            data.Faces(folder)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), data.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_augmentation_is_seeded_bounded_and_off_at_zero():
    image = torch.rand(12, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    assert torch.equal(data.augment(image.clone(), 0., seed=1), image)
    one, same, other = (data.augment(image.clone(memory_format=torch.preserve_format), 1., seed=seed) for seed in ((3, 1), (3, 1), (3, 2)))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == image.shape and one.min() >= 0 and one.max() <= 1 and one.is_contiguous(memory_format=torch.channels_last)
    weak, strong = ((data.augment(image.clone(), strength, seed=0) - image).abs().mean() for strength in (.05, 1.))
    assert 0 < weak < strong / 3
    assert np.isfinite(one.numpy()).all()
