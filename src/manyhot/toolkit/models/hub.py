"""Where an encoder lies: a folder, or a name on the Hub of Hugging Face by way of huggingface_hub's own cache."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from manyhot.toolkit.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# What is downloaded: the weights, and small files that say how to use them. Not the same weights again in other
# formats, which lie in folders (onnx/, openvino/) or are pickles.
WEIGHTS = (".safetensors",)
SMALL = (".json", ".txt", ".model")
TIMEOUT = 10.0
MODULES = "modules.json"


def encoder_folder(name: str, say: Callable[[str], None] = lambda text: None) -> Path:
    """Return the folder of an encoder, after downloading it if it is neither a folder nor in the cache.

    Args:
        name: a folder, or a name on the Hub such as sentence-transformers/all-MiniLM-L6-v2.
        say: hears what is downloaded, before it is: how much, the licence, and to where.

    Raises:
        InputError: no such folder or name, no connection, or nothing there that is read.
    """
    if Path(name).is_dir():
        return Path(name)
    if not NAME.fullmatch(name):
        raise InputError(f"{name}: expected a folder with config.json, or a name on the Hub; there is no such folder.")
    hub = _hub()
    cached = _cached(hub, name)
    if cached is None or _lacks_modules(hub, name):
        return _downloaded(hub, name, say)
    return cached


def _cached(hub: Any, name: str) -> Path | None:
    """Return the folder in the cache; None where it is not there with its weights."""
    try:
        folder = Path(hub.snapshot_download(name, local_files_only=True))
    except Exception:  # huggingface_hub has an error each for what is missing, and newer ones have more
        return None
    return folder if any(folder.rglob("config.json")) and any(folder.rglob("*.safetensors")) else None


def _lacks_modules(hub: Any, name: str) -> bool:
    """Say whether a folder in the cache lacks what the Hub has: transformers alone does not fetch how to pool."""
    if hub.try_to_load_from_cache(name, MODULES) is not None:  # it is there, or known not to be
        return False
    try:
        hub.hf_hub_download(name, MODULES, etag_timeout=TIMEOUT)
    except Exception:  # the Hub has none, which the cache now knows, or cannot be reached
        return False
    return True


def _downloaded(hub: Any, name: str, say: Callable[[str], None]) -> Path:
    cache = hub.constants.HF_HUB_CACHE
    try:
        info = hub.HfApi().model_info(name, files_metadata=True, timeout=TIMEOUT)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or [] if _wanted(file.rfilename)}
        if not any(file.endswith(WEIGHTS) for file in sizes):
            raise InputError(
                f"{name}: expected safetensors on the Hub, and there are none; other weights are not read, since "
                "reading them can run code. Choose another, such as sentence-transformers/all-MiniLM-L6-v2"
            )
        licence = getattr(info.card_data, "license", None) or "not stated"
        say(
            f"downloading {name} from the Hub: {sum(sizes.values()) / 1e6:,.0f} MB in {len(sizes)} files, licence "
            f"{licence if isinstance(licence, str) else ', '.join(licence)}, to {cache}"
        )
        hub.utils.disable_progress_bars()  # they would be drawn over ours
        return Path(hub.snapshot_download(name, allow_patterns=list(sizes)))
    except InputError:
        raise
    except hub.errors.GatedRepoError:
        raise InputError(
            f"{name}: its owner asks for consent first; give it on the page of {name}, then hf auth login"
        ) from None
    except hub.errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: neither a folder here nor a model on the Hub; a private one needs hf auth login"
        ) from None
    except Exception as error:  # of the connection, of every kind
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name}: neither a folder here nor in the cache ({cache}), and the Hub cannot be reached: {said}. "
            "Go online once, or name a folder"
        ) from None


def _wanted(file: str) -> bool:
    """Say whether a file on the Hub is of use: the network and its tokenizer, and how vectors are pooled."""
    path = PurePosixPath(file)
    if path.parent.name not in ("", "0_Transformer"):
        return re.fullmatch(r"\d+_\w+/config.json", file) is not None
    return path.suffix in WEIGHTS + SMALL


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise InputError("an encoder by its name needs huggingface_hub: pip install 'manyhot[encoder]'") from None
    return huggingface_hub
