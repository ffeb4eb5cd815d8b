"""Textual inversion (Gal et al. 2022): learn a new word for what a few images show. The networks stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.data.open import open_records
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.text_to_image.buckets import add_buckets
from mindone_ddpm.jobs.text_to_image.captions import Captions, same_texts
from mindone_ddpm.jobs.text_to_image.job import FineTuneJob, Source, open_base, prepare_base
from mindone_ddpm.jobs.text_to_image.product import TAGS
from mindone_ddpm.jobs.textual_inversion.config import TextualInversionConfig
from mindone_ddpm.models import new_tokens
from mindone_ddpm.models.precision import freeze
from mindone_ddpm.models.weights import LooseParameters, NetworkWeights
from mindone_ddpm.output.card import in_python
from mindone_ddpm.output.product import Product
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime

# What the captions say around the new word. Several, so that it takes up what the images share, not a sentence.
TEMPLATES = {
    "object": (
        *("{}", "a {}", "the {}", "one {}", "my {}", "this is a {}", "a photo of a {}", "a photo of the {}"),
        *("a photo of one {}", "a picture of a {}", "an image of my {}", "a close view of a {}", "a {} seen up close"),
        *("a {} in full view", "a small {}", "a large {}", "a bright photo of the {}", "a dark photo of the {}"),
        *("a sharp photo of a {}", "a blurred photo of a {}", "a plain photo of my {}", "a {} on its own"),
    ),
    "style": (
        *("in the style of {}", "a picture in the style of {}", "a painting in the style of {}", "art in {} style"),
        *("a drawing in the style of {}", "a small picture in the style of {}", "a large picture in the style of {}"),
        *("a bright picture in the style of {}", "a dark picture in the style of {}", "a detail in the style of {}"),
        *("the style of {}", "a work in the style of {}", "a sketch in the style of {}", "a scene in the style of {}"),
    ),
}


class NewWord:
    """See :class:`mindone_ddpm.jobs.text_to_image.trained.TrainedParts`. The rows of one new token.

    Args:
        base: the pipeline; its tokenizer and its text encoder are given the token, its networks are frozen.

    Raises:
        ConfigError: the token is there already, or the initializer is not one token.
    """

    text_encoder_trains = True

    def __init__(self, base: Any, config: TextualInversionConfig):
        self.token, initializer = str(config.placeholder_token), str(config.initializer_token)
        tokenizer, text_encoder = base.tokenizer, base.text_encoder
        ids = tokenizer(initializer, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ConfigError(
                f"--initializer_token {initializer}: is {len(ids)} tokens of this pipeline; a word of one token is "
                "needed"
            )
        freeze(base.unet)
        freeze(text_encoder)
        first = text_encoder.get_input_embeddings().embedding_table[ids[0]].asnumpy()
        rows = np.tile(first, (config.num_vectors, 1))
        self.names = new_tokens.token_names(self.token, config.num_vectors)
        self.rows: Parameter = new_tokens.add_token(base, self.token, rows, "--placeholder_token").new_rows
        number = "one vector" if config.num_vectors == 1 else f"{config.num_vectors} vectors"
        self.description = f"{number} of the new word {self.token}, from '{initializer}'"

    def trainable(self) -> dict[str, Parameter]:
        return {"new_rows": self.rows}

    def weights(self) -> dict[str, NetworkWeights]:
        return {"new_token": LooseParameters(self.trainable())}

    def save(self, folder: Path) -> None:
        new_tokens.save(self.token, self.rows.asnumpy(), folder)


class TextualInversionJob(FineTuneJob):
    """See :class:`mindone_ddpm.jobs.base.Job`."""

    @classmethod
    def open_data(cls, config: TextualInversionConfig) -> list[ImageRecords]:
        return [add_buckets(config, open_records(config, channels=3, seed=config.seed))]

    @classmethod
    def open(cls, config: TextualInversionConfig, runtime: Runtime) -> TextualInversionJob:
        """
        Raises:
            ConfigError, DataError: the pipeline, the word or the images cannot be used.
        """
        with distributed.main_first(runtime):
            (records,) = cls.open_data(config)
        base = open_base(config, ("StableDiffusionPipeline",))
        word = NewWord(base, config)
        prepare_base(config, runtime, base)
        texts = [template.format(" ".join(word.names)) for template in TEMPLATES[config.learnable_property]]
        origin = f"{len(texts)} captions with '{word.token}'"
        source = Source(records, Captions(same_texts(texts, len(records), origin), base.tokenizer))
        return cls(config, runtime, base, [source], word, product_of(config), config.repeats)


def product_of(config: TextualInversionConfig) -> Product:
    base, token = config.pretrained_model_name_or_path, str(config.placeholder_token)
    return Product(
        command="textual_inversion",
        noun="embedding",
        index_file=new_tokens.WEIGHTS_FILE,
        parts=(),
        pipeline_tag="text-to-image",
        tags=(*TAGS, "textual_inversion"),
        pipeline_class="StableDiffusionPipeline",
        call=f"pipeline({in_python(f'a photo of {token}')})",
        adapters_of=base,
        load_method="load_textual_inversion",
        base_model=base,
    )
