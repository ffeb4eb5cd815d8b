"""A job of another package: a UNet and a second network are trained on images that the job makes first."""

from mindone_ddpm.jobs.base import JobSpec
from two_networks.config import TwoNetworksConfig

SPEC = JobSpec(TwoNetworksConfig, "two_networks.job:TwoNetworksJob", "train a UNet and a corrector on stripes")
