"""Text for language models: files end to end, cut into equal pieces. A token is a byte, or what a tokenizer says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sift_cli.errors import Malformed, MissingExtra, PlanError, Unreadable
from sift_cli.training.recipes.data import Data

Encode = Callable[[bytes, Path], np.ndarray]


@dataclass(frozen=True)
class Options:
    """Attributes:
    path: A file, or a folder of which all files are read that ``files`` matches, in the order of their names.
    files: A glob, ``**/*.py`` for those in folders too.
    validation: Other text, a file or folder, to be measured on; without it, the last ``share`` of the tokens.
    share: See there.
    tokenizer: "bytes"; or a ``tokenizer.json`` of Hugging Face, or the folder that has one.
    length: Tokens that the model sees at once.
    """

    path: str
    files: str = "**/*.txt"
    validation: str | None = None
    share: float = 0.1
    tokenizer: str = "bytes"
    length: int = 256


def open(options: Options) -> Data:
    if options.length < 1 or not 0 < options.share < 1:
        raise PlanError("data.length is at least 1, and data.share between 0 and 1")
    encode, classes = _tokenizer(options.tokenizer)
    train = _tokens(Path(options.path), options.files, encode)
    if options.validation is not None:
        validation = _tokens(Path(options.validation), options.files, encode)
    else:
        cut = len(train) - int(options.share * len(train))
        train, validation = train[:cut], train[cut:]
    splits = (Pieces(tokens, options.length) for tokens in (train, validation))
    return Data("language", classes, (options.length,), *splits)


@dataclass(frozen=True)
class Pieces:
    """Pieces of ``length`` tokens, one after the other, each with the tokens that follow its own.

    Attributes:
        tokens: (N,) integers.
        length: Tokens of a piece.
    """

    tokens: np.ndarray
    length: int

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.length)

    def batch(self, indices: np.ndarray, random: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        places = indices[:, None] * self.length + np.arange(self.length + 1)
        tokens = torch.from_numpy(self.tokens[places].astype(np.int64))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _tokens(path: Path, files: str, encode: Encode) -> np.ndarray:
    if not path.exists():
        raise Unreadable(path, "no such file or folder")
    try:
        paths = sorted(one for one in path.glob(files) if one.is_file()) if path.is_dir() else [path]
    except (ValueError, NotImplementedError) as error:
        raise PlanError(f"data.files is {files!r:.60}: {error}", hint="write it as '**/*.txt'") from None
    if not paths:
        raise Unreadable(path, f"none of its files matches {files}", hint="say which ones: --set 'data.files=**/*.py'")
    parts = []
    for one in paths:
        try:
            parts.append(encode(one.read_bytes(), one))
        except OSError as error:
            raise Unreadable(one, error.strerror or str(error)) from None
    return np.concatenate(parts)


def _tokenizer(text: str) -> tuple[Encode, int]:
    if text == "bytes":
        return lambda raw, path: np.frombuffer(raw, np.uint8), 256
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("tokenizers", "transformers", "a tokenizer") from None
    path = Path(text) / "tokenizer.json" if Path(text).is_dir() else Path(text)
    if not path.is_file():
        raise Unreadable(path, "no such file", hint="data.tokenizer is 'bytes', a tokenizer.json, or a folder with one")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise Malformed(path, "its JSON", str(error).splitlines()[0]) from None

    def encode(raw: bytes, file: Path) -> np.ndarray:
        try:
            return np.array(tokenizer.encode(raw.decode(), add_special_tokens=False).ids, np.int32)
        except UnicodeDecodeError as error:
            raise Malformed(file, f"byte {error.start}", "it is no UTF-8 text") from None

    return encode, tokenizer.get_vocab_size()
