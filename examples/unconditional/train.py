"""Train a UNet on images, step by step in the order of the tutorial.

    python examples/unconditional/train.py --dataset_name digits --channels 1 --image_size 16 --output_dir my-digits

`mindone-ddpm train` and `md.train(config)` do the same in one call; here each part can be inspected and replaced.
"""

import sys

import mindone_ddpm as md


def main() -> int:
    # Configuration: flags, or a YAML file with --config. Checks it, starts MindSpore, chooses the device.
    config = md.parse_training_arguments()
    config, runtime = md.start_training(config)

    # Data set: images of one size. The column that holds them is found by its type.
    with md.main_first(runtime):  # with several ranks, the first rank of each machine fills the cache
        records = md.open_records(config)

    # Model and noise scheduler.
    class_names = [] if records.labels is None else records.labels.names
    unet = md.make_unet(config, class_names)
    noise_scheduler = md.make_noise_scheduler(config)

    # The job: what a batch contains, how it becomes a loss, which pipeline is saved.
    job = md.UnconditionalJob(config, runtime, records, unet, noise_scheduler)

    # Data loader, optimizer, learning-rate schedule and train step.
    training = md.build_training(config, runtime, job)

    # Training loop, with samples, checkpoints and evaluation.
    result = md.train_loop(training)
    if runtime.is_main:
        print(f"trained {result.steps} steps; the pipeline is in {result.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))
