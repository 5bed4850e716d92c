"""Pretrained encoders: a folder of transformers or sentence-transformers with safetensors, read as data, and texts to
its numbers.

Nothing in the folder is executed: no code of a checkpoint's own, no pickles, no kernels from elsewhere, and no network.
In a run the encoder is its configuration and its tokenizer, both JSON, and its weights, and is restored from these.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyhot.toolkit.disk.run_folder import file_sha256, sha256
from manyhot.toolkit.disk.text_numbers import Progress, TextNumbers, cache_folder
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models.pooling import MEAN, Pooling, read_sentences
from manyhot.toolkit.parse import parse_json
from manyhot.toolkit.plain_files import MOST_TEXT, read_plain

# Longer texts are cut; attention's memory grows with the square of it.
MAX_TOKENS = 512
# The version of the formulas here: numbers that were kept under another are made again.
NUMBERS = 1
# Sorted by length, 600 texts of SemEval English are 10 % padding and take 3.8 processor seconds; as they come 63 % and
# 9. Batches of as many tokens instead of as many rows are no faster. bfloat16 is, 1.5 times on AMX, but moves the
# numbers by half a per cent, and differently with the rows beside a text and with the processor: float32 stays.
BATCH = 32
# Rows of a table, of positions or segments, whose gradient may as well be written out.
SMALL_TABLE = 4096
# The files one of which a tokenizer has.
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
EXPECTED = "expected a checkpoint folder of transformers: config.json, *.safetensors, tokenizer.json"


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, as the JSON of the tokenizers library, and after how many tokens a text is cut."""

    tokenizer: str
    limit: int

    def transform(self, texts: list[str]) -> np.ndarray:
        """Return token ids, (rows, longest) int32, filled up with -1; what is beyond the limit is cut off."""
        return _padded([encoding.ids for encoding in self._made.encode_batch(texts)])

    def pieces(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids as :meth:`transform`, and of each row the text: a long one has several in a row."""
        encoded = self._made.encode_batch(texts)
        pieces = [[part.ids for part in (whole, *whole.overflowing)] for whole in encoded]
        texts_of = np.repeat(np.arange(len(pieces)), [len(parts) for parts in pieces])
        return _padded([ids for parts in pieces for ids in parts]), texts_of

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


def _padded(ids: list[list[int]]) -> np.ndarray:
    out = np.full((len(ids), max(map(len, ids), default=1) or 1), -1, dtype=np.int32)
    for row, part in zip(out, ids, strict=True):
        row[: len(part) or 1] = part or [0]  # a text without any token has the first of all
    return out


class Encoder:
    """An encoder and its tokenizer: the numbers of a text are pooled from its tokens' of the last layer.

    Attributes:
        name: of the folder, for the terminal.
        config: what the network is made from, as JSON.
        tokens: the tokenizer.
        network: in evaluation, where its weights are not trained.
        pooling: the mean, or what the folder says.
        long: "cut", or "mean" of the pieces of a text longer than the limit.
        known: numbers of texts that are kept, so that they are made once; None in a run that was loaded.
    """

    def __init__(
        self,
        name: str,
        config: dict[str, Any],
        tokens: Tokens,
        network: nn.Module,
        pooling: Pooling = MEAN,
        long: str = "cut",
        known: TextNumbers | None = None,
    ) -> None:
        self.name, self.config, self.tokens, self.network = name, config, tokens, network.eval()
        self.pooling, self.long, self.known = pooling, long, known

    @classmethod
    def read(cls, folder: str, device: str, long: str = "cut", *, name: str | None = None) -> "Encoder":
        """Read a checkpoint folder, called by the last part of `name` if that is given.

        Raises:
            InputError: no such folder, weights that are no safetensors, what transformers does not know, or no
                transformers.
        """
        whole = Path(folder)
        try:
            path, pooling, declared = read_sentences(whole)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise InputError(
                f"{folder}: expected modules.json and what it names as sentence-transformers writes it; "
                f"{_first_line(error)}"
            ) from None
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
            config = _plain(parse_json(read_plain(path / "config.json", MOST_TEXT)))
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
        limit = int(min(MAX_TOKENS, tokenizer.model_max_length, positions - 2, declared or MAX_TOKENS))
        tokens = Tokens(tokenizer.backend_tokenizer.to_str(), max(limit, 1))
        config = _plain(json.loads(made.to_json_string()))
        encoder = cls(Path(name or folder).resolve().name, config, tokens, network.to(device), pooling, long)
        encoder.known = TextNumbers(encoder.digest(path), encoder.width, cache_folder())
        return encoder

    @property
    def hidden(self) -> int:
        """How many numbers a token gets."""
        config: Any = self.network.config  # under whatever name a kind of network has it
        return int(config.hidden_size)

    @property
    def width(self) -> int:
        """How many numbers a text gets."""
        return self.hidden * len(self.pooling.modes)

    def transform(self, texts: list[str], progress: Progress = lambda share: None) -> np.ndarray:
        """Return (rows, width) float32; `progress` hears of the share that is done.

        The last bits of a row can depend on the rows beside it, which are padded to one length.
        """
        return self._made(texts, progress) if self.known is None else self.known.of(texts, self._made, progress)

    def _made(self, texts: list[str], progress: Progress) -> np.ndarray:
        if self.long == "cut":
            ids = self.tokens.transform(texts)
            return self.pooling.finish(embed(self.network, self.pooling, ids, self.width, progress))
        ids, texts_of = self.tokens.pieces(texts)
        pieces = embed(self.network, self.pooling, ids, self.width, progress)
        # Pieces count by their tokens, so that the mean of means is the mean of all tokens.
        lengths = (ids >= 0).sum(1)
        shares = lengths / np.bincount(texts_of, lengths, len(texts))[texts_of]
        sums = np.zeros((len(texts), self.width), dtype=np.float32)
        np.add.at(sums, texts_of, pieces * shares[:, None].astype(np.float32))
        return self.pooling.finish(sums)

    def digest(self, folder: Path) -> str:
        """Return the checksum of all that numbers depend on: the weights in the folder, and how they are used."""
        weights = [file_sha256(path) for path in sorted(folder.glob("*.safetensors"))]
        described, device = self.described() | {"name": ""}, next(self.network.parameters()).device.type
        return sha256(json.dumps([NUMBERS, weights, described, device], sort_keys=True).encode())

    def described(self) -> dict[str, Any]:
        """Return all but the weights, for JSON."""
        return {
            "name": self.name,
            "config": self.config,
            "tokenizer": self.tokens.tokenizer,
            "limit": self.tokens.limit,
            "long": self.long,
            "pooling": self.pooling.modes,
            "normalise": self.pooling.normalise,
        }

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Split into JSON and arrays; :meth:`from_state` puts them together again."""
        return self.described(), {f"encoder.{name}": value for name, value in arrays_of(self.network).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, np.ndarray], device: str) -> "Encoder":
        """Restore what :meth:`state` returned.

        Raises:
            ValueError: parts that do not fit.
        """
        tokens = Tokens(state["tokenizer"], int(state["limit"]))
        weights = {name.removeprefix("encoder."): a for name, a in arrays.items() if name.startswith("encoder.")}
        network = network_of(state["config"], weights).to(device)
        pooling = Pooling(tuple(state["pooling"]), bool(state["normalise"]))
        return cls(state["name"], state["config"], tokens, network, pooling, state["long"])


def embed(
    network: nn.Module,
    pooling: Pooling,
    ids: np.ndarray,
    width: int,
    progress: Progress = lambda share: None,
) -> np.ndarray:
    """Return the pooled last layer (rows, width), rows of like length together; `progress` hears of tokens done."""
    out = np.zeros((len(ids), width), dtype=np.float32)
    lengths, done = (ids >= 0).sum(1), 0
    order = np.argsort(lengths, kind="stable")
    with torch.no_grad():
        for rows in np.split(order, range(BATCH, len(order), BATCH)) if len(order) else []:
            out[rows] = pooled(network, pooling, ids[rows]).cpu().numpy()
            done += int(lengths[rows].sum())
            progress(done / int(lengths.sum()))
    return out


def pooled(network: nn.Module, pooling: Pooling, ids: np.ndarray) -> Tensor:
    """Return (rows, width), the pooled last layer of the network as it is: training or not."""
    device = next(network.parameters()).device
    longest = int((ids >= 0).sum(1).max())
    tokens = torch.from_numpy(ids[:, :longest].astype(np.int64)).to(device)
    known = tokens >= 0
    return pooling(last_layer(network, tokens.clamp(min=0), known), known)


def last_layer(network: nn.Module, tokens: Tensor, known: Tensor) -> Tensor:
    """Return (rows, length, hidden) float32 of token ids, in training by products in bfloat16 where those are fast.

    Weights, their gradients and all that is predicted are float32.
    """
    device = tokens.device.type
    with torch.autocast(device, torch.bfloat16, enabled=network.training and bfloat16_is_fast(device)):
        return network(input_ids=tokens, attention_mask=known.long()).last_hidden_state.float()


def trainable(network: nn.Module) -> nn.Module:
    """Return a copy to be trained, the gradients of whose tables hold the rows of a mini-batch alone.

    Written out they would be half the weights of a small encoder, and take a tenth of the time of a fit.
    """
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings > SMALL_TABLE:
            module.sparse = True
    return network


def bfloat16_is_fast(device: str) -> bool:
    """Whether the device multiplies matrices of bfloat16 itself; others take longer for them than for float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older torch does not say what its processor has.
    can = getattr(torch.cpu, "get_capabilities", dict)() if device == "cpu" else {}
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def trained_on(device: str) -> str:
    """Say on what an encoder is trained, and how precisely if not in float32."""
    return f"{device.upper()}{' in bfloat16' if bfloat16_is_fast(device) else ''}"


def network_of(config: dict[str, Any], weights: dict[str, np.ndarray]) -> nn.Module:
    """Make a network of its configuration and weights.

    Raises:
        ValueError: they do not fit.
    """
    transformers = _transformers()
    with torch.random.fork_rng():
        made = transformers.AutoConfig.for_model(**_plain(config))
        # Sizes are those of the weights before any memory is taken for them.
        with torch.device("meta"):
            wanted = transformers.AutoModel.from_config(made, trust_remote_code=False).state_dict()
        for name, value in weights.items():
            if name in wanted and wanted[name].shape != value.shape:
                raise ValueError(f"expected {name} of shape {tuple(wanted[name].shape)}, got {value.shape}")
        if missing := [name for name in wanted if name not in weights]:
            raise ValueError(f"expected weights of {missing[0]}, got none")
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
