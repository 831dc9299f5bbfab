"""CIFAR-10 and CIFAR-100: reading, downloading, and the errors of both."""

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
from torchvision import datasets

from data_cases import open_dataset, stored_pixels
from pruneboard.errors import DataError

READERS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def write_cifar(name, root, monkeypatch, seed=0):
    """Write small files in CIFAR's format, register their checksums with torchvision, and return their content."""
    reader = READERS[name]
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    key = "labels" if name == "cifar10" else "fine_labels"
    classes = 10 if name == "cifar10" else 100
    generator = np.random.default_rng(seed)
    content = {}
    for part in ("train_list", "test_list"):
        listed = []
        for file, _ in getattr(reader, part):
            images = generator.integers(0, 256, (2 * classes, 3 * 32 * 32), dtype=np.uint8)
            labels = [int(label) for label in generator.permutation(2 * classes) % classes]
            listed.append([file, dump(folder / file, {"data": images, key: labels})])
            content.setdefault(part, []).append((images, labels))
        monkeypatch.setattr(reader, part, listed)
    names = [f"class{index}" for index in range(classes)]
    meta = {**reader.meta, "md5": dump(folder / reader.meta["filename"], {reader.meta["key"]: names})}
    monkeypatch.setattr(reader, "meta", meta)
    return {
        part: (np.concatenate([images for images, _ in rows]), [label for _, labels in rows for label in labels])
        for part, rows in content.items()
    }


def dump(path, content):
    """Pickle `content` to `path` and return the file's MD5, which torchvision checks."""
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_has_the_content_of_its_files(name, tmp_path, monkeypatch):
    """Pixels are red, green and blue planes in stored order, with the labels and class names of the files."""
    content = write_cifar(name, tmp_path, monkeypatch)
    cifar = open_dataset(name, data_dir=str(tmp_path), image_size=32)
    images, labels = content["test_list"]
    assert np.array_equal(stored_pixels(cifar.test).numpy(), images.reshape(-1, 3, 32, 32))
    assert cifar.test.labels.tolist() == labels
    images, labels = content["train_list"]
    stored = torch.cat([cifar.train.rows, cifar.validation.rows]).sort().values
    assert stored.tolist() == list(range(len(images)))
    assert np.array_equal(cifar.train.images.stored.numpy(), images.reshape(-1, 3, 32, 32))
    assert cifar.train.labels.tolist() == [labels[row] for row in cifar.train.rows]
    assert cifar.classes[:2] == ("class0", "class1")
    assert (cifar.original_size, cifar.synthetic_scale) == (32, False)


def test_the_content_hash_depends_on_the_content_alone(tmp_path, monkeypatch):
    """Equal files have equal hashes in any folder; other pixels have another hash."""
    found = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_cifar("cifar10", tmp_path / folder, monkeypatch, seed)
        found.append(open_dataset("cifar10", data_dir=str(tmp_path / folder), image_size=32).sha256)
    assert found[0] == found[1] != found[2]


def test_a_limit_on_cifar_takes_the_first_images_of_each_class(tmp_path, monkeypatch):
    """With ten classes, a limit of 50 keeps the first five of each, of which one in five is for validation."""
    _, labels = write_cifar("cifar10", tmp_path, monkeypatch)["train_list"]
    cifar = open_dataset("cifar10", data_dir=str(tmp_path), limit_train=50, val_fraction=0.2)
    assert (len(cifar.train), len(cifar.validation), len(cifar.test)) == (40, 10, 20)
    assert torch.bincount(cifar.validation.labels).tolist() == [1] * 10
    full = open_dataset("cifar10", data_dir=str(tmp_path)).train.images.stored
    first = sorted(row for c in range(10) for row in [i for i, label in enumerate(labels) if label == c][:5])
    assert torch.equal(cifar.train.images.stored, full[first])


def test_cifar_is_resized_to_the_image_size(tmp_path, monkeypatch):
    """Halving 32-pixel images keeps their mean brightness."""
    write_cifar("cifar10", tmp_path, monkeypatch)
    large, small = (open_dataset("cifar10", data_dir=str(tmp_path), image_size=size).test for size in (32, 16))
    assert stored_pixels(small).shape == (20, 3, 16, 16)
    difference = stored_pixels(large).float().mean((2, 3)) - stored_pixels(small).float().mean((2, 3))
    assert difference.abs().max() < 4


def test_missing_files_are_refused_with_the_options(tmp_path):
    """The message names the folder, `--download` and `--data-dir`."""
    with pytest.raises(DataError) as caught:
        open_dataset("cifar100", data_dir=str(tmp_path))
    assert str(caught.value) == (
        f"cifar100 is not in {tmp_path}: add --download, or point --data-dir at the folder that contains "
        "cifar-100-python"
    )


def test_the_default_folder_is_data(tmp_path, monkeypatch):
    """Without `--data-dir` the folder is `data`, and nothing is downloaded without `--download`."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="cifar10 is not in data: add --download"):
        open_dataset("cifar10")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_gives_a_one_line_error_with_a_remedy(tmp_path, monkeypatch):
    """A file with the wrong checksum is refused before it is unpickled."""
    write_cifar("cifar10", tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"not a pickle")
    with pytest.raises(DataError, match=r"incomplete or damaged.*delete that folder and add --download") as caught:
        open_dataset("cifar10", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Print nothing."""


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


def test_files_are_downloaded_once(tmp_path, monkeypatch, capsys):
    """`--download` fetches and reads the archive; afterwards the files suffice; stdout stays empty."""
    content = write_cifar("cifar10", tmp_path / "origin", monkeypatch)
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
    assert first.test.labels.tolist() == content["test_list"][1]
    assert capsys.readouterr().out == ""


def test_a_failed_download_gives_a_one_line_error(tmp_path, monkeypatch):
    """Without a network, the `DataError` names the remedy."""
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "nothing.tar.gz").as_uri())
    with pytest.raises(DataError, match=r"cannot download cifar10 to .*check the network") as caught:
        open_dataset("cifar10", data_dir=str(tmp_path / "target"), download=True)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
