"""Run under msrun by test_distributed.py: rank 1's data loading hangs, or raises, at its sixth batch."""

import sys
import time

import mindone_ddpm as md


def main() -> int:
    how = sys.argv.pop(1)
    config, runtime = md.start_training(md.parse_training_arguments())
    job = md.UnconditionalJob.open(config, runtime)
    make_batch, count = job.make_batch, 0

    def faulty(indices, generators):
        nonlocal count
        count += 1
        if runtime.rank == 1 and count == 6:
            if how == "hang":
                time.sleep(10_000)
            raise ValueError("something odd in the data")
        return make_batch(indices, generators)

    job.make_batch = faulty
    training = md.build_training(config, runtime, job)
    md.train_loop(training)
    return 0


if __name__ == "__main__":
    sys.exit(md.run(main))
