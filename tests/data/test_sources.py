"""Where images come from: digits, CIFAR, the limit and the validation split."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torchvision import datasets

from pruneboard import data
from pruneboard.data.arrays import Arrays, from_arrays
from pruneboard.data.images import channel_statistics, fingerprint
from pruneboard.data.splits import first_of_each_class, hold_out
from pruneboard.errors import DataError, UnknownNameError

FEW = settings(max_examples=30, deadline=None)
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)
READERS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def open_dataset(name="digits", **changes):
    """Open a data set at 16 pixels with a tenth held out, unless `changes` says otherwise."""
    request = {
        "data_dir": None,
        "download": False,
        "image_size": 16,
        "val_fraction": 0.1,
        "limit_train": None,
        "split_seed": 0,
    }
    return data.open_dataset(name, **{**request, **changes})


def pixels(split):
    """Return the stored pixels of a split's images."""
    return split.images.stored[split.rows]


# digits


def test_digits_are_divided_into_three_splits_of_square_rgb_images():
    """All 1797 digits are used once, as uint8 pixels of the size asked for."""
    digits = open_dataset(image_size=24)
    splits = (digits.train, digits.validation, digits.test)
    assert sum(map(len, splits)) == 1797
    assert all(pixels(split).shape == (len(split), 3, 24, 24) for split in splits)
    assert all(pixels(split).dtype == torch.uint8 for split in splits)
    assert all(split.labels.dtype == torch.int64 and len(split.labels) == len(split) for split in splits)
    assert digits.classes == tuple("0123456789")
    assert (digits.image_size, digits.original_size) == (24, 8)


def test_the_test_digits_are_every_fifth_of_each_class():
    """Walking through scikit-learn's order, each class's 5th, 10th, ... image is in the test split."""
    images, labels = load_digits(return_X_y=True)
    seen = dict.fromkeys(range(10), 0)
    expected = []
    for image, label in zip(images, labels, strict=True):
        seen[label] += 1
        if seen[label] % 5 == 0:
            expected.append((image.reshape(8, 8) * 255 / 16, label))
    test = open_dataset(image_size=8).test
    assert test.labels.tolist() == [label for _, label in expected]
    stored = np.stack([image for image, _ in expected])
    assert np.abs(pixels(test).numpy() - stored[:, None]).max() <= 0.5


def test_only_images_enlarged_at_least_twofold_count_as_synthetic():
    """Digits shown at their own size are real small images; at 16 pixels and more they are enlarged."""
    assert [open_dataset(image_size=size).synthetic_scale for size in (8, 12, 16, 32)] == [False, False, True, True]


def test_opening_twice_gives_the_same_data_set():
    """Pixels, labels, statistics and both hashes are functions of the request."""
    first, second = open_dataset(limit_train=200), open_dataset(limit_train=200)
    assert (first.mean, first.std, first.sha256, first.split_sha256) == (
        second.mean,
        second.std,
        second.sha256,
        second.split_sha256,
    )
    assert torch.equal(pixels(first.train), pixels(second.train))
    assert torch.equal(first.train.labels, second.train.labels)


def test_statistics_are_those_of_the_training_pool():
    """Mean and deviation equal numpy's over the training and validation pixels, without the test."""
    digits = open_dataset(limit_train=300)
    pool = np.concatenate([pixels(digits.train).numpy(), pixels(digits.validation).numpy()]) / 255
    assert np.allclose(digits.mean, pool.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(digits.std, pool.std((0, 2, 3)), rtol=1e-9)


def test_a_constant_channel_can_be_normalized():
    """A channel without variation gets a deviation of 1, not a division by zero."""
    grey = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    assert channel_statistics(grey) == ((0.2,) * 3, (1.0,) * 3)


# the limit and the validation split


@FEW
@given(labels=LABELS, limit=st.integers(1, 70))
def test_the_limit_takes_the_first_images_as_equally_as_they_allow(labels, limit):
    """It equals dealing one image to each class in turn, first images first, until the limit is reached."""
    queues = [(labels == label).nonzero().flatten().tolist() for label in range(5)]
    dealt = []
    while any(queues):
        dealt += [queue.pop(0) for queue in queues if queue]
    assert first_of_each_class(labels, limit).tolist() == sorted(dealt[:limit])


def test_a_limit_beyond_the_pool_takes_everything():
    """Asking for more images than there are, or for no limit, is the whole pool."""
    labels = torch.tensor([0, 1, 1, 0])
    assert first_of_each_class(labels, 9).tolist() == first_of_each_class(labels, None).tolist() == [0, 1, 2, 3]


@FEW
@given(labels=LABELS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_validation_holds_the_rounded_share_of_each_class(labels, fraction, seed):
    """Each class gives round(fraction x n) images, at least one of two, never its last; nothing is lost."""
    sizes = torch.bincount(labels).tolist()
    if max(sizes) < 2:
        with pytest.raises(DataError, match="no class has 2"):
            hold_out(labels, fraction, seed)
        return
    train, validation = hold_out(labels, fraction, seed)
    assert sorted(train.tolist() + validation.tolist()) == list(range(len(labels)))
    held = torch.bincount(labels[validation], minlength=len(sizes)).tolist()
    for size, found in zip(sizes, held, strict=True):
        assert found == (min(max(round(fraction * size), 1), size - 1) if size else 0)


def test_the_split_seed_changes_the_split_and_nothing_else():
    """Another seed holds out other images of the same pool; content hash and test stay."""
    one, other = open_dataset(split_seed=1), open_dataset(split_seed=2)
    assert one.split_sha256 != other.split_sha256
    assert one.sha256 == other.sha256
    assert torch.equal(pixels(one.test), pixels(other.test))
    assert torch.equal(torch.bincount(one.train.labels), torch.bincount(other.train.labels))


def test_the_content_hash_follows_the_limit():
    """A smaller training pool is another data set, whatever its split."""
    assert open_dataset(limit_train=100).sha256 != open_dataset(limit_train=101).sha256


def test_the_content_hash_does_not_depend_on_the_size_shown():
    """It is of the stored images, so a resize that rounds differently elsewhere cannot change it."""
    assert open_dataset(image_size=8).sha256 == open_dataset(image_size=32).sha256


def test_every_pixel_label_and_name_counts_in_the_content_hash():
    """One changed value in either half, or another class name, is another data set."""

    def content(changed=""):
        halves = {
            part: Arrays(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
            for part in ("train", "test")
        }
        part, _, field = changed.partition(".")
        if field:
            getattr(halves[part], field).flatten()[-1] += 1
        classes = ("a", "b", "d" if changed == "classes" else "c")
        return from_arrays(classes, halves["train"], halves["test"], image_size=2, limit_train=None).sha256

    changes = ("", "classes", "train.pixels", "train.labels", "test.pixels", "test.labels")
    assert content() == content()
    assert len({content(changed) for changed in changes}) == len(changes)


@FEW
@given(parts=st.lists(st.text(max_size=3), max_size=4), other=st.lists(st.text(max_size=3), max_size=4))
def test_fingerprints_tell_lists_apart(parts, other):
    """Two lists of texts share a hash only if they are the same list, however the texts run together."""
    assert (fingerprint(*parts) == fingerprint(*other)) == (parts == other)


def test_an_unknown_data_set_names_its_neighbour():
    """A misspelt name is answered with the one that was meant."""
    with pytest.raises(UnknownNameError, match=r"cifra10.*did you mean cifar10"):
        open_dataset("cifra10")


# CIFAR


def write_cifar(name, root, monkeypatch, seed=0):
    """Write small files in CIFAR's format and give torchvision their checksums; return what they hold."""
    reader = READERS[name]
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    key = "labels" if name == "cifar10" else "fine_labels"
    classes = 10 if name == "cifar10" else 100
    generator = np.random.default_rng(seed)
    held = {}
    for part in ("train_list", "test_list"):
        listed = []
        for file, _ in getattr(reader, part):
            images = generator.integers(0, 256, (2 * classes, 3 * 32 * 32), dtype=np.uint8)
            labels = [int(label) for label in generator.permutation(2 * classes) % classes]
            listed.append([file, dump(folder / file, {"data": images, key: labels})])
            held.setdefault(part, []).append((images, labels))
        monkeypatch.setattr(reader, part, listed)
    names = [f"class{index}" for index in range(classes)]
    meta = {**reader.meta, "md5": dump(folder / reader.meta["filename"], {reader.meta["key"]: names})}
    monkeypatch.setattr(reader, "meta", meta)
    return {
        part: (np.concatenate([images for images, _ in rows]), [label for _, labels in rows for label in labels])
        for part, rows in held.items()
    }


def dump(path, content):
    """Pickle `content` to `path` and return the file's md5, as torchvision checks it."""
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_what_its_files_hold(name, tmp_path, monkeypatch):
    """Pixels are red, green and blue planes in stored order, with the labels and class names of the files."""
    held = write_cifar(name, tmp_path, monkeypatch)
    cifar = open_dataset(name, data_dir=str(tmp_path), image_size=32)
    images, labels = held["test_list"]
    assert np.array_equal(pixels(cifar.test).numpy(), images.reshape(-1, 3, 32, 32))
    assert cifar.test.labels.tolist() == labels
    images, labels = held["train_list"]
    stored = torch.cat([cifar.train.rows, cifar.validation.rows]).sort().values
    assert stored.tolist() == list(range(len(images)))
    assert np.array_equal(cifar.train.images.stored.numpy(), images.reshape(-1, 3, 32, 32))
    assert cifar.train.labels.tolist() == [labels[row] for row in cifar.train.rows]
    assert cifar.classes[:2] == ("class0", "class1")
    assert (cifar.original_size, cifar.synthetic_scale) == (32, False)


def test_cifar_content_decides_its_hash(tmp_path, monkeypatch):
    """The same files hash alike anywhere; other pixels hash differently."""
    found = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_cifar("cifar10", tmp_path / folder, monkeypatch, seed)
        found.append(open_dataset("cifar10", data_dir=str(tmp_path / folder), image_size=32).sha256)
    assert found[0] == found[1] != found[2]


def test_a_limit_on_cifar_takes_the_first_images_of_each_class(tmp_path, monkeypatch):
    """With ten classes, a limit of 50 is the first five of each, of which one in five validates."""
    _, labels = write_cifar("cifar10", tmp_path, monkeypatch)["train_list"]
    cifar = open_dataset("cifar10", data_dir=str(tmp_path), limit_train=50, val_fraction=0.2)
    assert (len(cifar.train), len(cifar.validation), len(cifar.test)) == (40, 10, 20)
    assert torch.bincount(cifar.validation.labels).tolist() == [1] * 10
    full = open_dataset("cifar10", data_dir=str(tmp_path)).train.images.stored
    first = sorted(row for c in range(10) for row in [i for i, label in enumerate(labels) if label == c][:5])
    assert torch.equal(cifar.train.images.stored, full[first])


def test_cifar_is_resized_where_asked(tmp_path, monkeypatch):
    """Halving a 32-pixel image keeps its mean brightness and delivers the size asked for."""
    write_cifar("cifar10", tmp_path, monkeypatch)
    large, small = (open_dataset("cifar10", data_dir=str(tmp_path), image_size=size).test for size in (32, 16))
    assert pixels(small).shape == (20, 3, 16, 16)
    difference = pixels(large).float().mean((2, 3)) - pixels(small).float().mean((2, 3))
    assert difference.abs().max() < 4


def test_cifar_without_its_files_says_which_flag_to_use(tmp_path):
    """The message names the folder, --download and --data-dir."""
    with pytest.raises(DataError) as caught:
        open_dataset("cifar100", data_dir=str(tmp_path))
    assert str(caught.value) == (
        f"cifar100 is not in {tmp_path}: add --download, or point --data-dir at the folder that contains "
        "cifar-100-python"
    )


def test_cifar_is_looked_for_in_data_by_default(tmp_path, monkeypatch):
    """Without --data-dir the folder is `data`, and nothing is fetched unasked."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="cifar10 is not in data: add --download"):
        open_dataset("cifar10")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cifar_file_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    """A file whose checksum differs is refused before it is unpickled."""
    write_cifar("cifar10", tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"not a pickle")
    with pytest.raises(DataError, match=r"incomplete or damaged.*delete that folder and add --download") as caught:
        open_dataset("cifar10", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing."""


@contextmanager
def served(folder):
    """Serve `folder` over HTTP on this machine; yield the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_download_fetches_cifar_once(tmp_path, monkeypatch, capsys):
    """With --download the archive is fetched and read; afterwards the files are enough; stdout stays clean."""
    held = write_cifar("cifar10", tmp_path / "origin", monkeypatch)
    archive = tmp_path / "cifar.tar.gz"
    target = str(tmp_path / "target")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "origin" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("no_proxy", "*")
    with served(tmp_path) as address:
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/{archive.name}")
        first = open_dataset("cifar10", data_dir=target, download=True, image_size=32)
    second = open_dataset("cifar10", data_dir=target, download=True, image_size=32)
    assert first.sha256 == second.sha256
    assert first.test.labels.tolist() == held["test_list"][1]
    assert capsys.readouterr().out == ""


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    """No network ends in a DataError that names the remedy."""
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "nothing.tar.gz").as_uri())
    with pytest.raises(DataError, match=r"cannot download cifar10 to .*check the network") as caught:
        open_dataset("cifar10", data_dir=str(tmp_path / "target"), download=True)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
