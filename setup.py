import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "mindone_ddpm" / "__init__.py").read_text(encoding="utf-8"))
assert VERSION is not None
DOCS = [
    "mkdocs<2",  # mkdocs-material 9 is made for 1.x
    "mkdocs-material<10",
    "nbformat",  # writes the notebook
    "nbclient",  # runs it, with ipykernel
    "ipykernel",
]
# Gradio is not: its versions for huggingface_hub below 1.0 ask for an older Pillow and pydantic.
STUDIO = [
    "starlette>=0.40,<2",
    "uvicorn>=0.30,<1",
]

setup(
    name="mindone-ddpm",
    version=VERSION.group(1),
    description="Train diffusion models on your own images with MindSpore and mindone, on Ascend, GPU or CPU",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mindone_ddpm", "mindone_ddpm.*"]),
    package_data={"mindone_ddpm": ["py.typed", "backends/cpu/*.cpp", "backends/cpu/*.h", "studio/static/*"]},
    python_requires=">=3.10,<3.13",
    # An upper bound stands where a later version is known not to work, or not to exist, and the reason beside it. The
    # others have none: what is used of them has stayed the same for years, and a bound would keep security fixes out.
    # Lower bounds beside "damaged files" are the first versions without a known fault of that kind.
    install_requires=[
        # Tested by scripts/versions.sh with 2.7.1, 2.8.0, 2.9.0 and 2.10.0. Not above: 2.11 is announced without
        # parallel training in graph mode, which several ranks use by default, and no later version has been tested.
        "mindspore>=2.7.1,<2.11",
        "mindone==0.5.0",  # its UNet, schedulers and pipelines are what this package is built on
        "ml_dtypes",  # mindone.diffusers.training_utils imports it and does not declare it
        "numpy<2",  # mindone 0.5.0
        "huggingface_hub<1.0",  # transformers 4.57.1, which mindone 0.5.0 pins
        "datasets>=4.0",  # earlier ones offer to run Python that comes with a data set
        # Below, damaged files could run code. Above, wheels need numpy 2, which their metadata does not say.
        "pyarrow>=14.0.1,<24",
        "pandas<3",  # wheels of 3 need numpy 2
        "pillow>=10.3",  # damaged files
        # 16-bit colours, which Pillow rounds to 8 bits; mindone 0.5.0 needs it too. Before: damaged files (WebP).
        "opencv-python>=4.8.1.78",
        "tqdm",
        "pyyaml",
        "safetensors",
        "packaging",
        "psutil",
        "scikit-learn",  # ships the digits data set
        "tensorboardX",  # writes TensorBoard's files without TensorFlow or PyTorch
    ],
    extras_require={
        "tracking": ["tensorboard", "wandb"],  # tensorboard only to look at what was written
        # It needs protobuf < 7, which MindSpore 2.10 does not take: see docs/tracking.md.
        "swanlab": ["swanlab>=0.10,<0.11"],
        # Clients of hubs. modelscope-hub is what the modelscope package itself calls, without its models and trainers.
        "modelscope": ["modelscope-hub>=0.5,<0.6"],
        "modelers": ["openmind_hub>=1.3,<2"],  # it needs requests 2.32.2 exactly
        "studio": STUDIO,
        # The libraries that MindSpore's plugin for CUDA 11.6 names: see backends/gpu/cuda.py. Those of CUDA 12 and
        # cuDNN 9 have other names.
        "gpu": [
            "nvidia-cuda-runtime-cu11>=11.7,<12",
            "nvidia-cuda-nvrtc-cu11>=11.7,<12",
            "nvidia-cublas-cu11>=11.10,<12",
            "nvidia-cudnn-cu11>=8.5,<9",
            "nvidia-cufft-cu11>=10.7,<11",
            "nvidia-curand-cu11>=10.2,<11",
            "nvidia-cusolver-cu11>=11.4,<12",
            "nvidia-cusparse-cu11>=11.7,<12",
        ],
        "docs": DOCS,
        "dev": [
            *DOCS,
            *STUDIO,
            "playwright",  # drives the Chromium that is installed; the slow tests of the studio need one
            "pytest>=9",  # ends a test that hangs
            "pytest-xdist",
            "hypothesis",
            "markdown-it-py",
            "ruff",
            "mypy",
            "types-PyYAML",
            "types-tqdm",
            "tensorboard",
            "wandb",
            "modelscope-hub>=0.5,<0.6",
            "build",
            "setuptools>=68",  # to build in this environment, as the tests do
            "twine",
        ],
    },
    entry_points={"console_scripts": ["mindone-ddpm=mindone_ddpm.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
