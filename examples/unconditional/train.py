"""Train a UNet on images, step by step in the order of the tutorial.

    python examples/unconditional/train.py --dataset_name digits --channels 1 --image_size 16 --output_dir my-digits

`mindone-ddpm train` does the same in one call; here each piece can be looked at and replaced.
"""

import sys

import mindone_ddpm as md


def main() -> int:
    # Config: flags, or a YAML file with --config.
    config = md.parse_training_arguments()
    config, runtime = md.start_training(config)

    # Data set: images of one size, found by the type of their column.
    with md.main_first(runtime):  # with several ranks, the first one of each machine fills the cache
        records = md.open_records(config)

    # Model and noise scheduler.
    class_names = [] if records.labels is None else records.labels.names
    unet = md.make_unet(config, class_names)
    noise_scheduler = md.make_noise_scheduler(config)

    # The job says what a batch holds, how it becomes a loss, and which pipeline holds the result.
    job = md.UnconditionalJob(config, runtime, records, unet, noise_scheduler)

    # Data loader plan, optimiser, learning-rate schedule and train step.
    training = md.build_training(config, runtime, job)

    # Train loop, with evaluation on the way.
    result = md.train_loop(training)
    if runtime.is_main:
        print(f"trained; the pipeline is in {result.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))
