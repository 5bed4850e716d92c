"""Pretrained encoders: a folder of transformers with safetensors, read as data, and texts to its numbers.

Nothing in the folder is executed: no code of a checkpoint's own, no pickles, no kernels from elsewhere, and no network.
In a run the encoder is its configuration and its tokenizer, both JSON, and its weights, and is restored from these.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.examples import Examples

# Longer texts are cut; attention's memory grows with the square of it.
MAX_TOKENS = 512
BATCH = 32
# The files one of which a tokenizer has.
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
EXPECTED = "expected a checkpoint folder of transformers: config.json, *.safetensors, tokenizer.json"


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, as the JSON of the tokenizers library, and after how many tokens a text is cut."""

    tokenizer: str
    limit: int

    def transform(self, texts: list[str]) -> np.ndarray:
        """Return token ids, (rows, longest) int32, filled up with -1."""
        encoded = [encoding.ids or [0] for encoding in self._made.encode_batch(texts)]
        ids = np.full((len(encoded), max(map(len, encoded), default=1)), -1, dtype=np.int32)
        for row, part in zip(ids, encoded, strict=True):
            row[: len(part)] = part
        return ids

    def words(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of words, and the position of the first of each word, both int64.

        A word that the tokenizer has nothing for begins where the next one does. Nothing is cut: rows are, before.
        """
        encoding = self._uncut.encode(list(words), is_pretokenized=True)
        ids, of = encoding.ids or [0], encoding.word_ids or [None]
        first = np.full(len(words), len(ids) - 1, dtype=np.int64)
        for i in range(len(of) - 1, -1, -1):
            if of[i] is not None:
                first[of[i]] = i
        begun = set(of)
        for word in range(len(words) - 2, -1, -1):
            if word not in begun:
                first[word] = first[word + 1]
        return np.array(ids, dtype=np.int64), first

    @cached_property
    def _uncut(self) -> Any:
        from tokenizers import Tokenizer

        made = Tokenizer.from_str(self.tokenizer)
        made.no_truncation()
        made.no_padding()
        return made

    @cached_property
    def _made(self) -> Any:
        from tokenizers import Tokenizer

        made = Tokenizer.from_str(self.tokenizer)
        made.enable_truncation(self.limit)
        made.no_padding()
        return made


class Encoder:
    """An encoder and its tokenizer: the numbers of a text are the mean over its tokens of the last layer.

    Attributes:
        name: of the folder, for the terminal.
        config: what the network is made from, as JSON.
        tokens: the tokenizer.
        network: in evaluation, where its weights are not trained.
    """

    def __init__(self, name: str, config: dict[str, Any], tokens: Tokens, network: nn.Module) -> None:
        self.name, self.config, self.tokens, self.network = name, config, tokens, network.eval()
        self._seen: tuple[list[str], np.ndarray] | None = None

    @classmethod
    def read(cls, folder: str, device: str) -> "Encoder":
        """Read a checkpoint folder.

        Raises:
            InputError: no such folder, weights that are no safetensors, what transformers does not know, or no
                transformers.
        """
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise InputError(f"{folder}: {EXPECTED}; there is no config.json. Name the folder after --model encoder:")
        if not any(path.glob("*.safetensors")):
            raise InputError(
                f"{folder}: {EXPECTED}; there are no safetensors, and other weights are not read, since reading them "
                "can run code. Save it again: AutoModel.from_pretrained(DIR).save_pretrained(DIR)"
            )
        if not any((path / name).is_file() for name in TOKENIZERS):
            # transformers would make one that knows no word.
            raise InputError(f"{folder}: {EXPECTED}; there is no tokenizer. Save it: tokenizer.save_pretrained(DIR)")
        transformers = _transformers()
        try:
            config = _plain(json.loads((path / "config.json").read_text(encoding="utf-8")))
            made = transformers.AutoConfig.for_model(**config)
            options: Any = {"local_files_only": True, "trust_remote_code": False}
            with torch.random.fork_rng():  # weights that the folder lacks are drawn
                torch.manual_seed(0)
                network, info = transformers.AutoModel.from_pretrained(
                    path, config=made, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
                )
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, **options)
        except Exception as error:  # transformers raises of every kind
            raise InputError(f"{folder}: {EXPECTED}; {_first_line(error)}") from None
        # A pooling layer is not used here, and many checkpoints come without it.
        lacking = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
        if lacking:
            raise InputError(f"{folder}: {EXPECTED}; the weights lack {lacking[0]} and {len(lacking) - 1} more.")
        if getattr(made, "is_encoder_decoder", False):
            raise InputError(f"{folder}: expected an encoder, such as BERT; got {config['model_type']}, which decodes.")
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise InputError(f"{folder}: {EXPECTED}; its tokenizer has no tokenizer.json.")
        # RoBERTa's positions begin at 2.
        positions = getattr(made, "max_position_embeddings", None) or MAX_TOKENS + 2
        limit = int(min(MAX_TOKENS, tokenizer.model_max_length, positions - 2))
        tokens = Tokens(tokenizer.backend_tokenizer.to_str(), max(limit, 1))
        return cls(path.resolve().name, _plain(json.loads(made.to_json_string())), tokens, network.to(device))

    @property
    def width(self) -> int:
        """How many numbers a text gets."""
        config: Any = self.network.config  # under whatever name a kind of network has it
        return int(config.hidden_size)

    def transform(self, texts: list[str], progress: Callable[[int, int], None] = lambda rows, of: None) -> np.ndarray:
        """Return (rows, width) float32; the texts of the last call are remembered, as training asks twice.

        The last bits of a row can depend on the rows beside it, which are padded to one length.
        """
        if self._seen is None or self._seen[0] is not texts:
            self.remember(texts, embed(self.network, self.tokens.transform(texts), self.width, progress))
        assert self._seen is not None
        return self._seen[1]

    def remember(self, texts: list[str], numbers: np.ndarray) -> None:
        """Take the numbers of some texts as known."""
        self._seen = (texts, numbers)

    def embedded(self, examples: Examples) -> Examples:
        """Put numbers in the place of texts, before the numbers that are there."""
        numbers: Any = self.transform(examples.texts or [""] * examples.rows)
        if examples.numbers is not None:
            others = examples.numbers.toarray() if sp.issparse(examples.numbers) else examples.numbers
            numbers = np.hstack([numbers, others])
        return replace(examples, texts=None, numbers=numbers)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Split into JSON and arrays; :meth:`from_state` puts them together again."""
        described = {"name": self.name, "config": self.config}
        described |= {"tokenizer": self.tokens.tokenizer, "limit": self.tokens.limit}
        return described, {f"encoder.{name}": value for name, value in arrays_of(self.network).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, np.ndarray], device: str) -> "Encoder":
        """Restore what :meth:`state` returned.

        Raises:
            ValueError: parts that do not fit.
        """
        tokens = Tokens(state["tokenizer"], int(state["limit"]))
        weights = {name.removeprefix("encoder."): a for name, a in arrays.items() if name.startswith("encoder.")}
        return cls(state["name"], state["config"], tokens, network_of(state["config"], weights).to(device))


def embed(
    network: nn.Module, ids: np.ndarray, width: int, progress: Callable[[int, int], None] = lambda rows, of: None
) -> np.ndarray:
    """Return the mean over tokens of the last layer, rows of like length together."""
    out = np.zeros((len(ids), width), dtype=np.float32)
    order, done = np.argsort((ids >= 0).sum(1), kind="stable"), 0
    with torch.no_grad():
        for rows in np.split(order, range(BATCH, len(order), BATCH)) if len(order) else []:
            out[rows] = pooled(network, ids[rows]).cpu().numpy()
            done += len(rows)
            progress(done, len(ids))
    return out


def pooled(network: nn.Module, ids: np.ndarray) -> Tensor:
    """Return (rows, width), the mean over tokens of the last layer, of the network as it is: training or not."""
    device = next(network.parameters()).device
    longest = int((ids >= 0).sum(1).max())
    tokens = torch.from_numpy(ids[:, :longest].astype(np.int64)).to(device)
    known = tokens >= 0
    hidden = network(input_ids=tokens.clamp(min=0), attention_mask=known.long()).last_hidden_state
    weights = known.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def network_of(config: dict[str, Any], weights: dict[str, np.ndarray]) -> nn.Module:
    """Make a network of its configuration and weights.

    Raises:
        ValueError: they do not fit.
    """
    transformers = _transformers()
    with torch.random.fork_rng():
        made = transformers.AutoConfig.for_model(**_plain(config))
        network = transformers.AutoModel.from_config(made, trust_remote_code=False).to(torch.float32)
    try:
        network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    except RuntimeError as error:
        raise ValueError(_first_line(error)) from None
    return network.eval()


def arrays_of(network: nn.Module) -> dict[str, np.ndarray]:
    """Return the weights by name."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    # What could name code or kernels to fetch, and what only says where the checkpoint came from.
    unsafe = ("auto_map", "implementation", "kernel", "quantization")
    return {key: v for key, v in config.items() if not key.startswith("_") and not any(u in key for u in unsafe)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError("an encoder needs transformers: pip install 'manyhot[encoder]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
