"""New tokens of a text encoder (textual inversion, Gal et al. 2022): their rows train, the others stay as they are.

They are saved in diffusers' format, which ``load_textual_inversion`` of mindone and of diffusers reads: one safetensors
file that holds, under the token's name, float32 of shape (vectors, features). The first vector belongs to the token
itself, the others to ``token_1``, ``token_2``, ...
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import load_safetensors, save_safetensors
from mindone_ddpm.config.values import EMBEDDING_FILE as WEIGHTS_FILE
from mindone_ddpm.models.text_encoder import Embedding

MOST_CHARACTERS = 200  # of a token


class ExtendedEmbedding(nn.Cell):
    """An embedding with a table that stays as it is, and trained rows for new ids.

    Args:
        table: float32 of shape (ids, features).
        rows: the new ones, float32 of shape (vectors, features).
        first_id: of the new ids, which follow each other.
    """

    def __init__(self, table: ms.Parameter, rows: np.ndarray, first_id: int):
        super().__init__(auto_prefix=False)
        self.embedding_table = table
        table.requires_grad = False
        self.new_rows = ms.Parameter(ms.Tensor(rows, ms.float32), name="new_rows")
        self.last_old = table.shape[0] - 1
        self.new_ids = ms.Tensor(np.arange(first_id, first_id + len(rows)), ms.int32)

    def construct(self, ids):
        # By a matrix product with ones and zeros: its gradient is a matrix product too, not a scattered sum.
        ids = ids.astype(ms.int32)
        chosen = (ids.expand_dims(-1) == self.new_ids).astype(ms.float32)
        new = ops.matmul(chosen, self.new_rows)
        old = mint.nn.functional.embedding(ops.minimum(ids, self.last_old), self.embedding_table)
        return ops.where(chosen.sum(-1, keepdims=True) > 0, new, old)


def token_names(token: str, num_vectors: int) -> list[str]:
    """The names of a token's vectors, as diffusers has them."""
    return [token, *(f"{token}_{number}" for number in range(1, num_vectors))]


def add_token(pipeline: Any, token: str, rows: np.ndarray, flag: str) -> ExtendedEmbedding:
    """Add a token with its vectors to a pipeline's tokenizer and text encoder, in place.

    Args:
        flag: to name in errors.

    Raises:
        ConfigError: there is such a token already, or the tokenizer has more tokens than the text encoder.
    """
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    names = token_names(token, len(rows))
    known = tokenizer.get_vocab()
    taken = [name for name in names if {name, f"{name.lower()}</w>"} & known.keys()]  # </w>: a whole word of CLIP's
    if taken:
        raise ConfigError(f"{flag} {token}: {taken[0]} is a token of this pipeline already; choose another name")
    embedding = text_encoder.get_input_embeddings()
    old = getattr(embedding, "new_rows", None)  # of a token that was added before
    first_id = len(tokenizer) - (0 if old is None else len(old))
    if first_id > len(embedding.embedding_table):
        raise ConfigError(
            f"{flag} {token}: cannot be added: the tokenizer has {first_id:,} tokens already, the text encoder "
            f"{len(embedding.embedding_table):,}"
        )
    tokenizer.add_tokens(names)
    all_rows = rows if old is None else np.concatenate([old.asnumpy(), rows])
    extended = ExtendedEmbedding(embedding.embedding_table, all_rows, first_id)
    text_encoder.set_input_embeddings(extended)
    return extended


def join_rows(pipeline: Any) -> None:
    """Make the rows of added tokens rows of the text encoder's own table, in place: the pipeline can be saved then."""
    text_encoder = pipeline.text_encoder
    extended = text_encoder.get_input_embeddings()
    first_id = int(extended.new_ids[0])
    table = np.concatenate([extended.embedding_table.asnumpy()[:first_id], extended.new_rows.asnumpy()])
    embedding = Embedding(*table.shape)
    embedding.embedding_table = ms.Parameter(ms.Tensor(table), name=extended.embedding_table.name)
    text_encoder.set_input_embeddings(embedding)
    text_encoder.config.vocab_size = len(table)


def save(token: str, rows: np.ndarray, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors({token: rows}, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_into(pipeline: Any, sources: Sequence[str]) -> list[str]:
    """Add learned tokens to a pipeline's tokenizer and text encoder; returns the tokens.

    Args:
        sources: files in diffusers' format, or folders that hold one.

    Raises:
        ConfigError: a file cannot be read, is for another text encoder, or its token is there already.
    """
    if getattr(pipeline, "text_encoder_2", None) is not None:
        raise ConfigError(
            "--embedding: is for Stable Diffusion; a word for XL would need vectors of both text encoders"
        )
    found = [_read(source, pipeline.text_encoder) for source in sources]
    for source, (token, rows) in zip(sources, found, strict=True):
        add_token(pipeline, token, rows, f"--embedding {source}: the token")
    return [token for token, _ in found]


def _read(source: str, text_encoder: Any) -> tuple[str, np.ndarray]:
    path = Path(source) / WEIGHTS_FILE if os.path.isdir(source) else Path(source)
    try:
        arrays = load_safetensors(path)
    except Exception as error:  # OSError, or safetensors' own
        raise ConfigError(f"--embedding {source}: cannot be read from {path} ({first_line(error)})") from error
    if len(arrays) != 1:
        raise ConfigError(
            f"--embedding {source}: holds {len(arrays)} arrays; one, with the token as its name, is needed"
        )
    token, rows = next(iter(arrays.items()))
    if not token.strip() or len(token) > MOST_CHARACTERS or rows.size == 0:
        raise ConfigError(f"--embedding {source}: names no token, or has no vectors")
    rows = np.atleast_2d(rows).astype(np.float32)
    features = text_encoder.get_input_embeddings().embedding_table.shape[1]
    if rows.shape[1:] != (features,):
        raise ConfigError(
            f"--embedding {source}: its vectors have {rows.shape[-1]} numbers, those of this text encoder {features}; "
            "it is for another model"
        )
    return token, rows
