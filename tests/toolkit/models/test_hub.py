"""Encoders by their names on the Hub: a made cache, and a Hub that is not there or answers what a test says."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.hub import encoder_folder

pytestmark = pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="no huggingface_hub")

NAME = "someone/tiny"
FILES = {"config.json": 10, "model.safetensors": 3_000_000, "modules.json": 20, "1_Pooling/config.json": 5}
OTHERS = {
    "README.md": 1,
    "pytorch_model.bin": 9,
    "onnx/model.onnx": 9,
    "openvino/config.json": 1,
    "2_Dense/model.safetensors": 9,
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give huggingface_hub an empty cache and no network; the Hub answers only what a test puts there."""
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.file_download

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    refuse(monkeypatch, ConnectionError("no route to host"))
    return tmp_path / "hub"


def refuse(monkeypatch, error):
    import huggingface_hub

    def raising(*arguments, **options):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", raising)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising)


def answer(monkeypatch, cache, files, licence="apache-2.0"):
    """Let the Hub list these files, and downloading put them into the cache; return what was asked for."""
    import huggingface_hub

    asked = []
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
    info = SimpleNamespace(siblings=siblings, card_data=SimpleNamespace(license=licence))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **o: info)
    original = huggingface_hub.snapshot_download

    def download(name, *, local_files_only=False, allow_patterns=None):
        if local_files_only:
            return original(name, local_files_only=True)
        asked.extend(allow_patterns or [])
        return str(put(cache, allow_patterns))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def put(cache, files):
    """Lay files out as huggingface_hub does."""
    repo = cache / ("models--" + NAME.replace("/", "--"))
    commit = "0123456789" * 4
    for name in files:
        path = repo / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    return repo / "snapshots" / commit


def test_a_folder_is_taken_as_it_is(cache):
    (cache.parent / "someone" / "tiny").mkdir(parents=True)
    assert str(encoder_folder(NAME)) == NAME


def test_what_is_in_the_cache_needs_no_network(cache):
    folder = put(cache, FILES)
    assert encoder_folder(NAME) == folder


def test_a_download_is_announced_with_size_and_licence_and_takes_what_is_read(cache, monkeypatch):
    asked, said = answer(monkeypatch, cache, FILES | OTHERS), []

    def say(text):
        assert asked == []
        said.append(text)

    folder = encoder_folder(NAME, say)
    assert said == [f"downloading {NAME} from the Hub: 3 MB in 4 files, licence apache-2.0, to {cache}"]
    assert sorted(asked) == sorted(FILES)
    refuse(monkeypatch, ConnectionError())
    assert encoder_folder(NAME, lambda text: pytest.fail(text)) == folder


def test_what_transformers_left_in_the_cache_is_completed(cache, monkeypatch):
    import huggingface_hub

    folder = put(cache, ["config.json", "model.safetensors"])
    assert encoder_folder(NAME) == folder  # there is no network: what is there must do
    asked = answer(monkeypatch, cache, FILES)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **o: str(put(cache, ["modules.json"])))
    encoder_folder(NAME)
    assert sorted(asked) == sorted(FILES)


def test_weights_that_can_run_code_are_not_downloaded(cache, monkeypatch):
    answer(monkeypatch, cache, OTHERS | {"config.json": 1, "2_Dense/config.json": 1})
    with pytest.raises(InputError, match="expected safetensors on the Hub, and there are none"):
        encoder_folder(NAME, lambda text: pytest.fail(text))


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "a/b/c", "c:\\x", "../x"])
def test_a_path_is_no_name(cache, name):
    with pytest.raises(
        InputError, match=r"expected a folder with config\.json, or a name on the Hub; there is no such"
    ):
        encoder_folder(name)


def test_offline_and_not_in_the_cache_is_one_sentence(cache):
    with pytest.raises(InputError) as caught:
        encoder_folder(NAME)
    assert str(caught.value) == (
        f"{NAME}: neither a folder here nor in the cache ({cache}), and the Hub cannot be reached: no route to host. "
        "Go online once, or name a folder"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [("RepositoryNotFoundError", "nor a model on the Hub"), ("GatedRepoError", "asks for consent")],
)
def test_what_the_hub_refuses_is_said(cache, monkeypatch, error, message):
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, error)
    refuse(monkeypatch, kind.__new__(kind))
    with pytest.raises(InputError, match=message):
        encoder_folder(NAME)


def test_without_huggingface_hub_the_command_to_type_is_named(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"needs huggingface_hub: pip install 'manyhot\[encoder\]'"):
        encoder_folder(NAME)
