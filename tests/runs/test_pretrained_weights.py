"""Published weights: from a file, from the cache, downloaded; verified, and never executed."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cifar10.data.download import Patience
from cifar10.errors import UserError
from cifar10.networks.pretrained import TorchvisionNetwork
from cifar10.networks.pretrained_network import PublishedWeights
from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.runs.pretrained_weights import load_pretrained_weights, read_state_dict, weights_file
from tests.archive_server import CONTENT, serve

DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATIENT = Patience(pause=0.01)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub" / "checkpoints"


def published(url: str, sha256: str = DIGEST[:8]) -> PublishedWeights:
    known = TorchvisionNetwork.published_weights("squeezenet1_1")
    return replace(known, url=url, file_name="tiny.tar.gz", sha256=sha256)


@pytest.mark.parametrize("num_digits", [8, 64, 0])
def test_a_download_is_verified_and_kept(cache: Path, num_digits: int) -> None:
    sha256 = DIGEST[:num_digits]
    with serve() as web:
        path = weights_file(published(web.url, sha256), None, PATIENT)
        assert path == cache / "tiny.tar.gz" and path.read_bytes() == CONTENT
        num_requests = len(web.requests)
        assert weights_file(published(web.url, sha256), None, PATIENT) == path
    assert len(web.requests) == num_requests
    assert [one.name for one in cache.iterdir() if not one.name.startswith(".")] == [path.name]


def test_a_cut_download_is_resumed(cache: Path) -> None:
    with serve(cuts=[1, 0.3, 0.8]) as web:  # the first request asks for the size
        path = weights_file(published(web.url), None, PATIENT)
    assert path.read_bytes() == CONTENT
    assert web.requests[2:] == [f"bytes={int(len(CONTENT) * 0.3)}-", f"bytes={int(len(CONTENT) * 0.8)}-"]


def test_what_another_process_left_is_resumed(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.tar.gz.part").write_bytes(CONTENT[:1000])
    with serve() as web:
        assert weights_file(published(web.url), None, PATIENT).read_bytes() == CONTENT
    assert web.requests[-1] == "bytes=1000-"


def test_another_file_never_gets_the_name(cache: Path) -> None:
    with serve() as web, pytest.raises(UserError, match="SHA-256 is wrong"):
        weights_file(published(web.url, "0" * 8), None, PATIENT)
    assert not [one for one in cache.iterdir() if not one.name.startswith(".")]


def test_without_a_connection_the_address_the_place_and_the_override_are_said(cache: Path) -> None:
    with pytest.raises(UserError) as refusal:
        weights_file(TorchvisionNetwork.published_weights("resnet152"), None, PATIENT)
    text = str(refusal.value)
    assert "https://download.pytorch.org/models/resnet152-f82ba261.pth: no connection" in text
    assert f"not in {cache}" in text and "model.weights=/path/to/resnet152-f82ba261.pth" in text
    assert len(text.splitlines()) == 2


def test_a_damaged_file_in_the_cache_is_not_used(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.tar.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"not the published file.*remove it"):
        weights_file(published("http://127.0.0.1:1/tiny.tar.gz"), None, PATIENT)


def test_a_copy_under_the_published_name_is_verified_and_another_name_is_not(tmp_path: Path) -> None:
    for name in ("tiny.tar.gz", "mine.pth"):
        (tmp_path / name).write_bytes(b"else")
    assert weights_file(published("http://127.0.0.1:1/tiny.tar.gz"), str(tmp_path / "mine.pth")).name == "mine.pth"
    with pytest.raises(UserError, match="not the published file"):
        weights_file(published("http://127.0.0.1:1/tiny.tar.gz"), str(tmp_path / "tiny.tar.gz"))
    with pytest.raises(UserError, match=r"there is no file .*mine\.pt; did you mean .*mine\.pth"):
        weights_file(published("http://127.0.0.1:1/tiny.tar.gz"), str(tmp_path / "mine.pt"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_are_loaded_from_a_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    source = TorchvisionNetwork(1000, 64, "squeezenet1_1").network.state_dict()
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(source, file)
    else:
        save_file(dict(source), file)
    network = TorchvisionNetwork(1000, 64, "squeezenet1_1", weights=str(file))
    assert load_pretrained_weights(network) == file
    assert all(torch.equal(source[key], value) for key, value in network.network.state_dict().items())


def test_building_reads_no_file_and_no_weights_means_random_ones() -> None:
    network = TorchvisionNetwork(3, 64, "squeezenet1_1", weights="/there/is/no/such/file")
    with pytest.raises(UserError, match="there is no file"):
        load_pretrained_weights(network)
    assert load_pretrained_weights(TorchvisionNetwork(3, 64, "squeezenet1_1", weights="none")) is None
    assert load_pretrained_weights(SimpleCNN(num_classes=3, image_size=16, width=4)) is None


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_a_file_with_code_is_refused_and_the_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Payload()}, "evil.pth")
    with pytest.raises(UserError, match="more than tensors"):
        read_state_dict(Path("evil.pth"))
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [({"state_dict": nn.Linear(1, 1).state_dict()}, "plain state_dict"), ([1], "plain state_dict")],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=reason):
        read_state_dict(tmp_path / "other.pth")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(100, 100).state_dict(), tmp_path / "whole.pth")
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
        with pytest.raises(UserError, match="cannot be read as weights"):
            read_state_dict(tmp_path / name)
