"""Makes a Stable Diffusion pipeline of a size for tests: random weights, a tokenizer made on the spot, real formats.

    python tests/programs/make_stable_diffusion.py FOLDER [VAE_STEPS | --real_size] [--xl]

With VAE_STEPS its autoencoder learns to give handwritten digits back first, so that there is something to look at.
With --real_size the networks have the sizes of Stable Diffusion 1.5, to measure the memory of a step. With --xl it is a
pipeline of Stable Diffusion XL.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mindone_ddpm.backends.choose import choose
from mindone_ddpm.common import libraries
from mindone_ddpm.runtime import start

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("a", "handwritten", "digit", "picture", "of", *NUMBERS)
MAX_TOKENS = 16
SMALL_TEXT_ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "sample_size": 16,
}
SMALL_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SMALL_XL_UNET: dict[str, Any] = {
    **SMALL_UNET,
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}
# Stable Diffusion XL, as its config.json files have it.
REAL_XL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REAL_XL_TEXT_ENCODER_2 = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
# Stable Diffusion 1.5, as its config.json files have it.
REAL_TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
REAL_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 512,
}
REAL_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer's vocabulary and merges: every byte, and the words of :data:`WORDS` whole."""
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    folder.mkdir(parents=True)
    characters = list(bytes_to_unicode().values())
    tokens = [*characters, *(f"{character}</w>" for character in characters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            if merge not in merges:
                merges.append(merge)
            pieces = ["".join(merge), *pieces[2:]]
            if pieces[0] not in tokens:
                tokens.append(pieces[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


def make_text_encoder(kind, tokenizer, settings: dict[str, Any]):
    from transformers import CLIPTextConfig

    return kind(
        CLIPTextConfig(
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **{"vocab_size": len(tokenizer), **settings},
        )
    )


def make_pipeline(folder: Path, vae_steps: int = 0, seed: int = 0, real_size: bool = False, xl: bool = False):
    import mindspore as ms
    from transformers import CLIPTokenizer

    start.start("CPU", "graph", seed)
    from mindone_ddpm.models.pipelines import pipeline_class, save_text_pipeline

    with libraries.quiet_imports():
        from mindone.diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
        from mindone.transformers import CLIPTextModel, CLIPTextModelWithProjection

    write_tokenizer(folder / "words")
    max_tokens = 77 if real_size else MAX_TOKENS
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "words"), model_max_length=max_tokens)
    # In this order: the weights are random, and those of runs in tests/data are what it gave.
    text_encoder = make_text_encoder(CLIPTextModel, tokenizer, REAL_TEXT_ENCODER if real_size else SMALL_TEXT_ENCODER)
    vae = AutoencoderKL(**(REAL_VAE if real_size else SMALL_VAE), latent_channels=4)
    if vae_steps:
        train_vae(vae, vae_steps)
    unet_settings = {(False, False): SMALL_UNET, (True, False): REAL_UNET, (False, True): SMALL_XL_UNET}.get(
        (real_size, xl), REAL_XL_UNET
    )
    parts = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": UNet2DConditionModel(**unet_settings),
        "scheduler": PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
    }
    if xl:
        second = REAL_XL_TEXT_ENCODER_2 if real_size else {**SMALL_TEXT_ENCODER, "projection_dim": 32}
        parts["text_encoder_2"] = make_text_encoder(CLIPTextModelWithProjection, tokenizer, second)
        pipeline = pipeline_class("StableDiffusionXLPipeline")(**parts, tokenizer_2=tokenizer, add_watermarker=False)
    else:
        pipeline = pipeline_class("StableDiffusionPipeline")(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    save_text_pipeline(pipeline, folder / "pipeline")
    assert ms.get_context("device_target") == "CPU"
    return folder / "pipeline"


def digits(size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """The built-in digits in [-1, 1], float32 of shape (number, 3, size, size), and what they are."""
    from mindone_ddpm.jobs.unconditional.config import TrainingConfig
    from mindone_ddpm.jobs.unconditional.data import open_records

    records = open_records(TrainingConfig(dataset_name="digits", image_size=size, channels=3, class_conditional=True))
    pictures = np.stack([records.image(number) for number in range(len(records))])
    return (pictures / 127.5 - 1.0).astype(np.float32), records.labels.class_ids


def train_vae(vae, steps: int) -> None:
    """Least squares through the mean of the posterior, then the latents' scale is brought to 1."""
    import mindspore as ms
    from mindspore import nn, ops

    from mindone_ddpm.training.optimizers import AdamW
    from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate

    class Reconstruction(nn.Cell):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def construct(self, images):
            mean, log_variance = ops.chunk(self.vae.encode(images)[0], 2, 1)
            again = self.vae.decode(mean)[0]
            error = ops.square(again - images).mean((1, 2, 3))
            return error + 1e-3 * ops.square(log_variance + 6.0).mean((1, 2, 3))

    class Means(nn.Cell):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def construct(self, images):
            return ops.chunk(self.vae.encode(images)[0], 2, 1)[0]

    pictures, _ = digits()
    optimizer = AdamW(ms.ParameterTuple(vae.trainable_params()), 0.9, 0.999, 1e-8, 0.0, choose("CPU"))
    boundary = OptimizerUpdate(optimizer, np.full(steps, 2e-3), choose("CPU"), max_grad_norm=1.0)
    step = DiffusionTrainStep(Reconstruction(), boundary).set_train()
    weights = ms.Tensor(np.ones(32), ms.float32)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        loss, _, _ = step.run([[ms.Tensor(pictures[generator.integers(0, len(pictures), 32)]), weights]])
    vae.set_train(False)
    latents = Means()(ms.Tensor(pictures[:64])).asnumpy()
    vae.register_to_config(scaling_factor=float(1.0 / latents.std()))
    print(f"autoencoder: squared error {float(loss):.4f} after {steps} steps")


if __name__ == "__main__":
    target, *options = sys.argv[1:]
    steps = next((int(option) for option in options if not option.startswith("--")), 0)
    print(make_pipeline(Path(target), steps, real_size="--real_size" in options, xl="--xl" in options))
