"""Images in files: folders in memory, folders that stream, ImageNet, and all that can be wrong with them."""

from __future__ import annotations

import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms import functional

from pruneboard import data, draws
from pruneboard.data import BatchPlan
from pruneboard.data.stream import Reader, seeded, training_transform
from pruneboard.errors import DataError, UsageError

CPU = torch.device("cpu")
SMALL, LARGE = 20, 80


def write_tree(root, side, *, test="test", classes=("cat", "dog", "emu"), each=6, tested=3):
    """Write a tree of random PNG files and return its root."""
    generator = np.random.default_rng(side)
    for part, count in (("train", each), (test, tested)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return root


@pytest.fixture
def small(tmp_path):
    """Return a tree of images that fit in memory."""
    return write_tree(tmp_path / "small", SMALL)


@pytest.fixture
def large(tmp_path):
    """Return a tree of images that stream."""
    return write_tree(tmp_path / "large", LARGE)


def open_dataset(root, name="folder", **changes):
    """Open a tree at 16 pixels with a fifth held out, unless `changes` says otherwise."""
    request = {"download": False, "image_size": 16, "val_fraction": 0.2, "limit_train": None, "split_seed": 0}
    return data.open_dataset(name, data_dir=str(root), **{**request, **changes})


def plan(**changes):
    """Return a plan for one process, unless `changes` says otherwise."""
    fields = {
        "batch_size": 8,
        "micro_batch": 2,
        "rank": 0,
        "world": 1,
        "augment": "imagenet",
        "order_seed": 3,
        "augment_seed": 4,
        "device": CPU,
        "workers": 0,
    }
    return data.BatchPlan(**{**fields, **changes})


def epoch(dataset, cut, number=0):
    """Return an epoch's steps, each a list of micro-batches."""
    return list(data.train_batches(dataset, cut, epoch=number))


def joined(batches):
    """Return the images and labels of many micro-batches as one batch."""
    batches = list(batches)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def same(one, other):
    """Tell whether two batches are equal bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def evaluated(split, dataset, world=1, workers=0):
    """Return a split as evaluation delivers it, one rank's images after the other's."""
    parts = [
        joined(
            data.eval_batches(split, dataset, BatchPlan.for_evaluation(4, CPU, rank=r, world=world, workers=workers))
        )
        for r in range(world)
    ]
    return joined(parts)


# in memory


def test_small_images_are_decoded_into_memory(small):
    """Pixels are the files' own, classes and files in the order of their names."""
    dataset = open_dataset(small, image_size=SMALL)
    assert dataset.classes == ("cat", "dog", "emu")
    assert dataset.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    files = sorted((small / "test").glob("*/*.png"))
    expected = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
    assert np.array_equal(dataset.test.images.stored.numpy(), expected)
    assert (len(dataset.train), len(dataset.validation)) == (15, 3)
    assert (dataset.original_size, dataset.synthetic_scale, dataset.train.streams) == (SMALL, False, False)


def test_images_of_another_size_or_mode_become_square_rgb(small):
    """Grey, palette and transparent files, of any shape, are delivered like the others."""
    cats = small / "train" / "cat"
    for index, mode in enumerate(("L", "P", "RGBA", "1")):
        Image.new(mode, (30 + index, 10)).save(cats / f"other{index}.PNG")
    dataset = open_dataset(small, image_size=16)
    assert dataset.train.images.stored.shape == (22, 3, 16, 16)
    assert dataset.original_size == 33


def test_val_is_the_test_split_where_there_is_no_test(tmp_path):
    """`test` is preferred where both exist, and `val` serves alone; the content hash is the same."""
    with_test, with_val = write_tree(tmp_path / "a", SMALL), write_tree(tmp_path / "b", SMALL, test="val")
    assert torch.equal(open_dataset(with_test).test.images.stored, open_dataset(with_val).test.images.stored)
    shutil.copytree(with_val / "val" / "cat", with_test / "val" / "cat")
    assert len(open_dataset(with_test).test) == 9


def test_the_limit_decodes_no_other_file(small):
    """A broken file beyond the limit is never opened; the first files of each class are used."""
    (small / "train" / "cat" / "zz.png").write_bytes(b"broken")
    dataset = open_dataset(small, limit_train=7)
    kept = torch.cat([dataset.train.labels, dataset.validation.labels])
    assert torch.bincount(kept).tolist() == [3, 2, 2]
    assert len(dataset.test) == 9


@pytest.mark.parametrize(("side", "part"), [(SMALL, "train"), (SMALL, "test"), (LARGE, "train"), (LARGE, "test")])
def test_the_content_hash_follows_the_files(tmp_path, side, part):
    """Moving the tree or changing the split seed keeps it; one other file, in either half, changes it."""
    root = write_tree(tmp_path / "a", side)
    before = open_dataset(root).sha256
    assert open_dataset(root, split_seed=9).sha256 == before
    root = root.rename(tmp_path / "b")
    assert open_dataset(root).sha256 == before
    Image.new("RGB", (side, side)).save(root / part / "dog" / "01.png")
    assert open_dataset(root).sha256 != before


def test_the_same_pixels_are_the_same_data(tmp_path):
    """Lossless WebP instead of PNG changes neither the content hash nor the order of the images."""
    png = write_tree(tmp_path / "png", SMALL)
    webp = shutil.copytree(png, tmp_path / "webp")
    for path in sorted(webp.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
    one, other = open_dataset(png), open_dataset(webp)
    assert (one.sha256, one.split_sha256) == (other.sha256, other.split_sha256)
    assert torch.equal(one.train.images.stored, other.train.images.stored)


def test_hidden_folders_and_other_files_are_not_data(small):
    """`.ipynb_checkpoints`, `README` and the like do not become classes or images."""
    (small / "train" / ".ipynb_checkpoints").mkdir()
    (small / "train" / "README.md").write_text("about")
    (small / "train" / "cat" / "notes.txt").write_text("about")
    assert len(open_dataset(small).classes) == 3


def test_the_first_image_tells_the_side(small, large):
    """Only the first training image's header is read."""
    assert data.first_image_side(str(small)) == SMALL
    assert data.first_image_side(str(large)) == LARGE


# streaming


def test_large_images_stream_with_the_constants_of_imagenet(large):
    """They stay files, and are normalized as pretrained models expect."""
    dataset = open_dataset(large)
    assert dataset.train.streams
    assert dataset.test.streams
    assert (dataset.mean, dataset.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert (dataset.original_size, dataset.synthetic_scale) == (LARGE, False)


def test_imagenet_streams_whatever_the_size(tmp_path):
    """`imagenet` reads train/ and val/ and never keeps pixels."""
    dataset = open_dataset(write_tree(tmp_path, SMALL, test="val"), "imagenet")
    assert dataset.train.streams
    assert len(dataset.test) == 9


@pytest.mark.parametrize("augment", ["imagenet", "crop-flip"])
@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (4, 2)])
def test_streaming_depends_neither_on_processes_nor_on_workers(large, augment, world, workers):
    """Each image's transform is keyed by its place in the epoch, so every way of sharing gives the same."""
    dataset = open_dataset(large)
    whole = [joined(step) for step in epoch(dataset, plan(augment=augment))]
    assert len(whole) == 1
    ranks = [epoch(dataset, plan(augment=augment, world=world, rank=r, workers=workers)) for r in range(world)]
    for i, expected in enumerate(whole):
        assert same(joined(batch for rank in ranks for batch in rank[i]), expected)


def test_streaming_replays_itself_and_differs_between_epochs(large):
    """The same epoch twice is the same; another epoch has another order and other crops."""
    dataset = open_dataset(large)
    first, again, other = (joined(epoch(dataset, plan(), number)[0]) for number in (0, 0, 1))
    assert same(first, again)
    assert not torch.equal(first[0], other[0])


def test_streamed_crops_are_what_timm_makes_under_the_key(large):
    """An image equals timm's transform of its file under the generator state of its place."""
    dataset = open_dataset(large)
    images, labels = joined(epoch(dataset, plan(), 5)[0])
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    order = torch.randperm(15, generator=torch.Generator().manual_seed(draws.key(3, "train", 5)))
    for place in (0, 5):
        row = dataset.train.rows[order[place]]
        file = sorted((large / "train").glob("*/*.png"))[row]
        with seeded(draws.key(4, "train", 5, place)):
            crop = training_transform(16)(Image.open(file).convert("RGB"))
        expected = functional.normalize(crop.float() / 255, dataset.mean, dataset.std)
        assert torch.allclose(images[place], expected, atol=1e-6)
        assert labels[place] == dataset.train.labels[order[place]]


def test_streamed_evaluation_is_the_centre_of_each_image_once(large):
    """Every image arrives once for any number of processes: resized to 1/0.875 of the side, then its centre."""
    dataset = open_dataset(large)
    images, labels = evaluated(dataset.test, dataset)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    file = sorted((large / "test").glob("*/*.png"))[4]
    resized = functional.resize(Image.open(file), 18)
    expected = functional.normalize(
        functional.to_tensor(functional.center_crop(resized, 16)), dataset.mean, dataset.std
    )
    assert torch.allclose(images[4], expected, atol=1e-6)
    shared, shared_labels = evaluated(dataset.test, dataset, world=2, workers=1)
    order = torch.tensor([*range(0, 9, 2), *range(1, 9, 2)])
    assert torch.equal(shared, images[order])
    assert torch.equal(shared_labels, labels[order])


def global_draws():
    """Draw from every global generator."""
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the one under test


def seed_globals():
    """Put every global generator at a known place."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the one under test
    torch.manual_seed(1)


def test_streaming_in_place_leaves_the_global_generators_alone(large):
    """With 0 workers the transforms draw in this process, and nobody else notices."""
    dataset = open_dataset(large)
    seed_globals()
    expected = global_draws()
    seed_globals()
    epoch(dataset, plan())
    epoch(dataset, plan(workers=2))
    assert global_draws() == expected


def test_a_reader_survives_the_way_to_a_spawned_worker(large):
    """It can be pickled, and reads the same afterwards."""
    dataset = open_dataset(large)
    reader = Reader(dataset.train.images, dataset.train.rows, training_transform(16), (4, "train", 0))
    assert torch.equal(pickle.loads(pickle.dumps(reader))[3], reader[3])


# what can be wrong


def message(call):
    """Return the one line with which `call` fails."""
    with pytest.raises(DataError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


def test_a_missing_folder_names_the_flag(tmp_path):
    """No --data-dir, no such folder, no train, no test: each says what the tree must look like."""
    with pytest.raises(UsageError, match=r"folder needs --data-dir DIR.*train/<class>"):
        data.open_dataset(
            "folder", data_dir=None, download=False, image_size=16, val_fraction=0.1, limit_train=None, split_seed=0
        )
    gone = tmp_path / "gone"
    assert f"there is no folder {gone}; point --data-dir at" in message(lambda: open_dataset(gone))
    assert f"{tmp_path} has no folder train; point --data-dir at" in message(lambda: open_dataset(tmp_path))
    assert "there is no folder" in message(lambda: data.first_image_side(str(gone)))


def test_a_tree_without_test_images_says_so(small):
    """Neither test/ nor val/ is an error, and for imagenet test/ does not count."""
    assert "has no folder val of test images" in message(lambda: open_dataset(small, "imagenet"))
    shutil.rmtree(small / "test")
    assert "has no folder test or val of test images" in message(lambda: open_dataset(small))


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_folder_is_named(small, part):
    """A class without images is named by its path, with the remedy."""
    for file in (small / part / "dog").iterdir():
        file.unlink()
    text = message(lambda: open_dataset(small))
    assert text.startswith(f"{small / part / 'dog'} contains no image")
    assert "delete its folder" in text


def test_one_class_is_not_enough(tmp_path):
    """There is nothing to classify with fewer than two folders."""
    root = write_tree(tmp_path, SMALL, classes=("cat",))
    assert "2 or more classes; found only 'cat'" in message(lambda: open_dataset(root))
    shutil.rmtree(root / "train" / "cat")
    assert "2 or more classes; found none" in message(lambda: data.first_image_side(str(root)))


def test_classes_that_differ_between_the_halves_are_named(small):
    """The message says which half lacks which class."""
    (small / "test" / "emu").rename(small / "test" / "yak")
    text = message(lambda: open_dataset(small))
    assert f"{small / 'test'} lacks 1 (emu)" in text


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_corrupt_image_in_memory_is_named(small, part, content):
    """Empty, foreign and truncated files are all found while decoding."""
    file = small / part / "dog" / "01.png"
    file.write_bytes(file.read_bytes()[:200] if content == "truncated" else content)
    text = message(lambda: open_dataset(small))
    assert text.startswith(f"cannot decode {file}: ")
    assert text.endswith("; replace or delete it")


def test_more_than_8_bits_per_channel_are_refused_not_clipped(small):
    """PIL would turn a 16-bit grey image white without a word."""
    file = small / "train" / "dog" / "01.png"
    Image.fromarray(np.full((SMALL, SMALL), 40000, dtype=np.uint16)).save(file)
    assert f"cannot decode {file}: it has mode I;16" in message(lambda: open_dataset(small))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_in_a_stream_is_named(large, workers):
    """It surfaces as the same one line wherever it was decoded."""
    for file in sorted((large / "train").glob("*/*.png"))[1:]:
        file.write_bytes(file.read_bytes()[:2000])
    dataset = open_dataset(large)
    text = message(lambda: epoch(dataset, plan(workers=workers)))
    assert text.startswith(f"cannot decode {large / 'train'}")
    assert text.endswith("; replace or delete it")


def test_a_corrupt_first_image_is_named(large):
    """Asking for the side of a file that is no image is one line as well."""
    file = large / "train" / "cat" / "00.png"
    file.write_bytes(b"no image")
    assert message(lambda: data.first_image_side(str(large))) == (
        f"cannot decode {file}: it is not an image; replace or delete it"
    )
    assert "it is not an image" in message(lambda: open_dataset(large))


def test_one_image_per_class_leaves_nothing_to_validate(tmp_path):
    """The message says how to get a validation split."""
    root = write_tree(tmp_path, SMALL)
    assert "raise --limit-train, or add images" in message(lambda: open_dataset(root, limit_train=3))


# Kept open


def test_a_folder_that_is_kept_open_is_read_once(small):
    """Later requests need its files no more, whatever they hold out; behind the block they do again."""
    with data.dataset_cache():
        first = open_dataset(small)
        shutil.rmtree(small)
        assert open_dataset(small) is first
        other = open_dataset(small, split_seed=1)
    assert (other.sha256, other.train.images) == (first.sha256, first.train.images)
    assert other.split_sha256 != first.split_sha256
    with pytest.raises(DataError):
        open_dataset(small)


def test_what_is_kept_open_is_what_would_be_read(small):
    """The same hashes, labels and pixels."""
    fresh = open_dataset(small, split_seed=1)
    with data.dataset_cache():
        open_dataset(small)
        kept = open_dataset(small, split_seed=1)
    assert (kept.sha256, kept.split_sha256, kept.mean, kept.std) == (
        fresh.sha256,
        fresh.split_sha256,
        fresh.mean,
        fresh.std,
    )
    assert kept.train.labels.tolist() == fresh.train.labels.tolist()
    assert all(
        torch.equal(one[0], two[0])
        for one, two in zip(*(epoch(opened, plan(augment="none"))[0] for opened in (kept, fresh)), strict=True)
    )


def test_one_data_set_is_kept_open_at_a_time(small, tmp_path):
    """Another one, or the same at another size, takes its place."""
    with data.dataset_cache():
        open_dataset(small)
        open_dataset(write_tree(tmp_path / "other", SMALL))
        shutil.rmtree(small)
        with pytest.raises(DataError):
            open_dataset(small)


def test_a_stand_in_is_opened_until_its_block_ends(small, tmp_path):
    """Whatever was asked for, also where there is nothing to open; an error ends it too, and it is never kept."""
    noise = open_dataset(write_tree(tmp_path / "noise", SMALL))
    before = open_dataset(small)
    with data.dataset_cache():
        with data.override_dataset(noise):
            assert open_dataset(small) is noise
            assert open_dataset("nowhere", "cifar10") is noise
            with data.override_dataset(before):
                assert open_dataset(small) is before
            assert open_dataset(small) is noise
        assert open_dataset(small).sha256 == before.sha256
    with pytest.raises(ZeroDivisionError), data.override_dataset(noise):
        raise ZeroDivisionError
    assert open_dataset(small).sha256 == before.sha256
