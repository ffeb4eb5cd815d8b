"""The cases of the rehearsal: what runs on the stand-in for CANN and on the CPU, and how far the two may differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from mindone_ddpm.config.groups import OPTIMIZERS, SAMPLERS

DEVICES = ("CPU", "Ascend")


class Tolerance(NamedTuple):
    """The largest difference that is allowed between the stand-in and the CPU.

    Attributes:
        losses: of a logged loss or metric, relative to the CPU's.
        weights: the norm of a network's difference, relative to how far training has moved it on the CPU.
        images: of a pixel, whose values are between 0 and 1.
    """

    losses: float
    weights: float
    images: float


FLOAT32 = Tolerance(losses=1e-4, weights=1e-2, images=1e-3)
# On Ascend mindone's attention computes in float16 with float32 too.
HALF_ATTENTION = Tolerance(losses=1e-3, weights=1e-2, images=2e-2)
METRICS = Tolerance(losses=1e-3, weights=1e-2, images=1e-3)  # a distance between small sets of features
HALF = Tolerance(losses=1e-3, weights=5e-2, images=2e-2)
BFLOAT16 = Tolerance(losses=5e-3, weights=2e-1, images=5e-2)


@dataclass(frozen=True)
class Case:
    """Command lines that run on both devices, one after the other.

    Attributes:
        name: as on the command line.
        about: what it shows, in a few words.
        commands: words of each command line. ``{inputs}`` is the folder of :mod:`inputs`, ``{out}`` the case's own on
            the device at hand. ``--device`` is added.
        on_cpu: words that follow a training's on the CPU, where they replace earlier ones.
        same: pairs of folders in ``{out}`` whose weights must have the same bits.
        skips: the number of updates that overflow must skip.
        quick: part of the normal test suite.
    """

    name: str
    about: str
    commands: tuple[tuple[str, ...], ...]
    tolerance: Tolerance = FLOAT32
    on_cpu: tuple[str, ...] = ()
    same: tuple[tuple[str, str], ...] = ()
    skips: int = 0
    quick: bool = False


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# A step and its checkpoint take some 50 ms. Adam's epsilon is large, so that a weight whose gradient is no more than
# rounding stays where it is: with 1e-8 it would move by the learning rate in a random direction.
RUN = words(
    "--report_to csv --logging_steps 1 --checkpointing_steps 1 --checkpoints_total_limit 10 --compile_cache off "
    "--learning_rate 1e-3 --lr_scheduler constant --lr_warmup_steps 0 --adam_epsilon 1e-4 --save_image_epochs 0"
)
DIGITS = (
    *words("train --dataset_name digits --channels 1 --image_size 8 --train_batch_size 8 --max_train_steps 5"),
    *words("--model_config_name_or_path {inputs}/unet.json --mixed_precision no"),
    *RUN,
)
TEXT = (
    *words("train_text_to_image --pretrained_model_name_or_path {inputs}/stable-diffusion/pipeline --resolution 16"),
    *words("--dataset_name {inputs}/captioned --center_crop --train_batch_size 4 --max_train_steps 4"),
    *words("--mixed_precision no --cache_dir {out}/cache"),
    *RUN,
)
XL = (
    "train_text_to_image_sdxl",
    *TEXT[1:],
    *words("--pretrained_model_name_or_path {inputs}/stable-diffusion-xl/pipeline"),
)
SUBJECT = (
    *words("--pretrained_model_name_or_path {inputs}/stable-diffusion/pipeline --train_data_dir {inputs}/subject"),
    *words("--resolution 16 --center_crop --train_batch_size 2 --max_train_steps 4 --mixed_precision no"),
    *RUN,
)
DREAMBOOTH = (
    *("train_dreambooth", "--instance_prompt", "a picture of a zzz", "--class_prompt", "a picture of a digit"),
    *words("--with_prior_preservation --class_data_dir {inputs}/class --num_class_images 4 --train_text_encoder"),
    *SUBJECT,
)
WORD = (
    *words("textual_inversion --placeholder_token <three> --initializer_token digit --num_vectors 2"),
    *SUBJECT,
    *words("--learning_rate 1e-2 --use_ema"),
)
SIZES = (
    *("train_text_to_image", "--instance_prompt", "a digit", *SUBJECT),
    *words("--resolution 32 --aspect_buckets --bucket_step 8 --max_train_steps 6 --rank 4 --use_ema"),
    *words("--train_data_dir {inputs}/sizes --cache_dir {out}/cache"),
)
SAMPLE = words("sample --num_images 4 --num_inference_steps 4 --bit_depth 16 --output_dir {out}/images")
LORA = words("--rank 4 --learning_rate 1e-2")
PROMPT = ("--prompt", "a handwritten three", "--guidance_scale", "3")
OUT = words("--output_dir {out}/run")


def training(name: str, about: str, flags: str = "", job: tuple[str, ...] = DIGITS, **more) -> Case:
    return Case(name, about, ((*job, *OUT, *words(flags)),), **more)


def in_pynative(case: Case, quick: bool) -> Case:
    commands = tuple((*command, "--mode", "pynative") for command in case.commands)
    return replace(case, name=f"{case.name}-pynative", about=f"{case.about}; PyNative", commands=commands, quick=quick)


FLOAT32_CPU = words("--mixed_precision no")
DROPOUT = "--model_config_name_or_path {inputs}/dropout.json"
ATTENTION = "--model_config_name_or_path {inputs}/attention.json"
CLASSES = (
    f"{ATTENTION} --class_conditional --label_dropout 0.3 --guidance_scale 2 --save_image_epochs 1 "
    "--ddpm_num_inference_steps 3 --eval_batch_size 4"
)
LOSS_V = (
    "--prediction_type v_prediction --loss_type huber --snr_gamma 5 --noise_offset 0.1 --input_perturbation 0.1 "
    "--ddpm_beta_schedule squaredcos_cap_v2"
)
FLOW = (
    "--objective flow_matching --flow_shift 2 --timestep_sampling logit_normal --augment_probability 0.5 "
    "--snapshot_steps 2 --use_ema --noise_coupling optimal_transport --stratified_timesteps"
)
FEATURES = "fid,kid,precision_recall"
EVALUATION = (
    (
        *DIGITS,
        *OUT,
        *words(f"--eval_metrics {FEATURES} --eval_features digits --eval_num_samples 40 --eval_num_inference_steps 3"),
        *words("--validation_split 0.05 --validation_num_images 20 --validation_loss_steps 3 --use_ema"),
    ),
    (
        *words(f"evaluate --model {{inputs}}/digits --dataset_name digits --features digits --metrics {FEATURES}"),
        *words("--num_samples 80 --num_inference_steps 3 --batch_size 40 --output_dir {out}/evaluation --force"),
    ),
)
FEATURES_OF_FOLDERS = (
    "evaluate --fake {inputs}/inception/b --real {inputs}/inception/a --metrics kid,inception_score --force "
    "--inception_weights {inputs}/inception/weights.safetensors --batch_size 3 --output_dir {out}/evaluation"
)
EDIT = "--model {inputs}/digits --bit_depth 16 --output_dir {out}/images"
INPAINT = (
    f"inpaint {EDIT} --image {{inputs}}/a.png --mask {{inputs}}/mask.png --num_images 2 --num_inference_steps 6 "
    "--jump_length 2 --jump_n_sample 2"
)
INTERPOLATE = (
    f"interpolate {EDIT} --image_a {{inputs}}/a.png --image_b {{inputs}}/b.png --num_images 3 --num_inference_steps 6"
)
PYNATIVE = (
    "float32",
    "flow",
    "fp16",
    "bf16",
    "dropout",
    "classes",
    "evaluation",
    "text",
    "text-lora",
    "text-latents",
    "word",
    "dreambooth",
    "xl",
)

FULL = Case(
    "float32",
    "float32, accumulation, EMA, resumed from step 2",
    (
        (*DIGITS, *words("--use_ema --gradient_accumulation_steps 2 --output_dir {out}/run")),
        (
            *DIGITS,
            *words("--use_ema --gradient_accumulation_steps 2 --output_dir {out}/resumed"),
            *words("--resume_from_checkpoint {out}/run/checkpoint-2"),
        ),
    ),
    same=(("run", "resumed"),),
    quick=True,
)
TEXT_FULL = Case(
    "text",
    "text to image: VAE and text encoder in the step, EMA, dropped captions; sampling with guidance",
    (
        (*TEXT, *OUT, *words("--use_ema --caption_dropout 0.3")),
        (*SAMPLE, *words("--model {out}/run"), *PROMPT),
    ),
    tolerance=HALF_ATTENTION,
)
TEXT_LORA = Case(
    "text-lora",
    "text to image: LoRA, sampled with its adapters",
    (
        (*TEXT, *OUT, *LORA),
        (*SAMPLE, *words("--model {inputs}/stable-diffusion/pipeline --lora {out}/run"), *PROMPT),
    ),
    tolerance=HALF_ATTENTION,
)
CASES: list[Case] = [
    FULL,
    training(
        "fp16",
        "fp16 by default; dynamic loss scaling from a scale that overflows",
        "--mixed_precision auto --loss_scaling dynamic --loss_scale 1048576",
        on_cpu=words("--mixed_precision fp16"),
        tolerance=HALF,
        skips=4,
    ),
    training("bf16", "bf16; float32 on the CPU", "--mixed_precision bf16", on_cpu=FLOAT32_CPU, tolerance=BFLOAT16),
    training("dropout", "a model with dropout, and gradient checkpointing", f"{DROPOUT} --gradient_checkpointing"),
    Case(
        "classes",
        "classes, attention, images with guidance during training and after",
        (
            (*DIGITS, *OUT, *words(CLASSES)),
            (*SAMPLE, *words("--model {inputs}/classes --class_label 3,1 --guidance_scale 2")),
        ),
        tolerance=HALF_ATTENTION,
    ),
    training("attention-fp16", "attention in fp16", f"{ATTENTION} --mixed_precision fp16", tolerance=HALF),
    training("loss-v", "v prediction, Huber loss, Min-SNR, noise offset, input perturbation", LOSS_V),
    training("loss-sample", "sample prediction, L1 loss", "--prediction_type sample --loss_type l1"),
    Case(
        "flow",
        "flow matching, augmentation, averages for snapshots; resumed, averaged, sampled",
        (
            (*DIGITS, *OUT, *words(FLOW)),
            (*DIGITS, *words(f"{FLOW} --output_dir {{out}}/resumed --resume_from_checkpoint {{out}}/run/checkpoint-2")),
            words("average {out}/run --width 0.1 --output_dir {out}/averaged"),
            (*SAMPLE, *words("--model {out}/averaged")),
        ),
        same=(("run", "resumed"),),
    ),
    training("flow-fp16", "the same in fp16", f"{FLOW} --mixed_precision fp16", tolerance=HALF),
    Case(
        "evaluation",
        "FID, KID, precision, recall and the loss on held-out images; the command evaluate",
        EVALUATION,
        METRICS,
    ),
    Case(
        "features",
        "features of Inception-v3 with random weights, KID and inception score",
        (words(FEATURES_OF_FOLDERS),),
    ),
    Case("inpaint", "completing images", ((*words(INPAINT),),)),
    Case("interpolate", "images between two images", ((*words(INTERPOLATE),),)),
    TEXT_FULL,
    TEXT_LORA,
    training("text-sizes", "text to image: images of three sizes, a graph each", job=SIZES, tolerance=HALF_ATTENTION),
    training(
        "text-sizes-accumulated",
        "the same, cached latents, two batches an update, which may be of two sizes",
        "--gradient_accumulation_steps 2 --cache_latents --max_train_steps 4",
        job=SIZES,
        tolerance=HALF_ATTENTION,
    ),
    Case(
        "xl",
        "Stable Diffusion XL: adapters on the UNet and both text encoders, sampled",
        (
            (*XL, *OUT, *LORA, "--train_text_encoder"),
            (*SAMPLE, *words("--model {inputs}/stable-diffusion-xl/pipeline --lora {out}/run"), *PROMPT),
        ),
        tolerance=HALF_ATTENTION,
    ),
    training("xl-fp16", "XL in fp16, cached latents", "--cache_latents --mixed_precision fp16", job=XL, tolerance=HALF),
    training(
        "dreambooth",
        "DreamBooth of UNet and text encoder, prior preservation",
        job=DREAMBOOTH,
        tolerance=HALF_ATTENTION,
    ),
    Case(
        "dreambooth-lora",
        "DreamBooth with adapters on both networks in fp16; fused, sampled",
        (
            (*DREAMBOOTH, *OUT, *LORA, *words("--mixed_precision fp16 --cache_latents --cache_dir {out}/cache")),
            words("fuse --model {inputs}/stable-diffusion/pipeline --lora {out}/run:0.5 --output_dir {out}/fused"),
            (*SAMPLE, *words("--model {out}/fused"), *PROMPT),
        ),
        tolerance=HALF,
    ),
    Case(
        "word",
        "textual inversion, sampled with the new word",
        (
            (*WORD, *OUT),
            (
                *SAMPLE,
                *words("--model {inputs}/stable-diffusion/pipeline --embedding {out}/run"),
                *("--prompt", "a picture of a <three>", "--guidance_scale", "3"),
            ),
        ),
        tolerance=HALF_ATTENTION,
    ),
    training("text-latents", "text to image: cached latents", "--cache_latents", job=TEXT, tolerance=HALF_ATTENTION),
    training("text-fp16", "text to image in fp16", "--mixed_precision fp16", job=TEXT, tolerance=HALF),
    training(
        "text-bf16",
        "text to image in bf16; float32 on the CPU",
        "--mixed_precision bf16",
        job=TEXT,
        on_cpu=FLOAT32_CPU,
        tolerance=BFLOAT16,
    ),
    training(
        "text-fused",
        "text to image with fused attention in fp16; plain attention on the CPU",
        "--mixed_precision fp16 --enable_xformers_memory_efficient_attention",
        job=TEXT,
        tolerance=HALF,
    ),
    training(
        "text-checkpointing",
        "text to image with gradient checkpointing",
        "--gradient_checkpointing",
        job=TEXT,
        tolerance=HALF_ATTENTION,
    ),
]
CASES += [
    Case(
        f"sampler-{name}",
        f"sampling with {name}",
        ((*SAMPLE, *words(f"--model {{inputs}}/digits --scheduler {name}")),),
    )
    for name in SAMPLERS
]
CASES += [
    training(f"optimizer-{name}", f"the optimizer {name}", f"--optimizer {name}")
    for name in OPTIMIZERS
    if name != "adamw"
]
# PyNative compiles nothing: two of them are quick.
CASES += [in_pynative(case, quick=case.name in ("fp16", "text-lora")) for case in CASES if case.name in PYNATIVE]
