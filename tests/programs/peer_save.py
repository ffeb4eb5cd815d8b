"""Runs in an environment of its own, with PyTorch and diffusers: a pipeline as they save it today.

python peer_save.py PIPELINE FOLDER     into FOLDER/plain, and in half precision, in parts, as a variant, FOLDER/parts
python peer_save.py PIPELINE            loads it; prints the tokens of a text
"""

from __future__ import annotations

import sys

import torch
from diffusers import StableDiffusionPipeline


def main(pipeline: str, *folder: str) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    if not folder:
        print(pipe.tokenizer("a handwritten three").input_ids)
        return
    pipe.save_pretrained(f"{folder[0]}/plain")
    pipe.to(torch.float16).save_pretrained(f"{folder[0]}/parts", variant="fp16", max_shard_size="60KB")


if __name__ == "__main__":
    main(*sys.argv[1:])
