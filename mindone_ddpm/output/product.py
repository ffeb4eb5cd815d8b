"""What a kind of training makes: its files, and how they are used."""

from __future__ import annotations

from dataclasses import dataclass, field

SNAPSHOTS = "snapshots"  # folder in a run: averages of its weights


@dataclass(frozen=True)
class Product:
    """What a job saves, described for the engine, the model card and the Hub.

    Attributes:
        command: the job's registered name, such as ``train``.
        noun: what to call the product: ``pipeline`` or ``adapters``.
        index_file: written last; where it is, the product is complete.
        parts: the folders and other files of the product.
        pipeline_tag, tags: how the Hub files it.
        pipeline_class: of mindone and diffusers, that loads it; None where their pipelines cannot use it fully.
        call: a Python expression that makes images with ``pipeline``.
        adapters_of: the base model of adapters or embeddings; None where the product is a whole pipeline.
        load_method: of that pipeline, which loads them.
        base_model: what training started from.
        sample_options: what the ``sample`` command needs besides ``--model``.
        advice: a line for the end of a run; empty for none.
    """

    command: str
    noun: str
    index_file: str
    parts: tuple[str, ...]
    pipeline_tag: str
    tags: tuple[str, ...]
    pipeline_class: str | None = None
    call: str = "pipeline()"
    adapters_of: str | None = None
    load_method: str = "load_lora_weights"
    base_model: str | None = None
    sample_options: tuple[str, ...] = field(default=())
    advice: str = ""
