"""Makes a Stable Diffusion pipeline of a size for tests: random weights, a tokenizer made on the spot, real formats.

    python tests/make_stable_diffusion.py FOLDER [VAE_STEPS | --real_size]

With VAE_STEPS its autoencoder learns to give handwritten digits back first, so that there is something to look at.
With --real_size the networks have the sizes of Stable Diffusion 1.5, to measure the memory of a step.
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


def make_pipeline(folder: Path, vae_steps: int = 0, seed: int = 0, real_size: bool = False):
    import mindspore as ms
    from transformers import CLIPTextConfig, CLIPTokenizer

    start.start("CPU", "graph", seed)
    from mindone_ddpm.models.pipelines import save_text_pipeline

    with libraries.quiet_imports():
        from mindone.diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from mindone.transformers import CLIPTextModel

    max_tokens = 77 if real_size else MAX_TOKENS
    write_tokenizer(folder / "words")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "words"), model_max_length=max_tokens)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            max_position_embeddings=max_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **(REAL_TEXT_ENCODER if real_size else {"vocab_size": len(tokenizer), **SMALL_TEXT_ENCODER}),
        )
    )
    vae = AutoencoderKL(**(REAL_VAE if real_size else SMALL_VAE), latent_channels=4)
    if vae_steps:
        train_vae(vae, vae_steps)
    unet = UNet2DConditionModel(**(REAL_UNET if real_size else SMALL_UNET))
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
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
    real_size = "--real_size" in options
    print(make_pipeline(Path(target), 0 if real_size or not options else int(options[0]), real_size=real_size))
