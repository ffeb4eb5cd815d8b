"""A small classifier of handwritten digits, for metrics where there are no weights of Inception."""

from __future__ import annotations

import hashlib
import warnings
import zipfile

import numpy as np
from PIL import Image

from mindone_ddpm.common.files import atomic_path, cache_dir


class Digits:
    """A classifier of the built-in 8x8 digits; a FeatureNetwork. Its features are the 32 units before the classes.

    Its metrics are meaningful for digits only. Their names begin with ``digits_``, so that nobody takes them for FID.

    Args:
        layers: weight (inputs, outputs) and bias (outputs,) of each layer.
    """

    prefix, width = "digits_", 32

    def __init__(self, layers: list[tuple[np.ndarray, np.ndarray]]):
        self.layers = layers
        content = b"".join(weight.tobytes() + bias.tobytes() for weight, bias in layers)
        self.identity = f"digits classifier {hashlib.sha256(content).hexdigest()[:12]}"

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.stack([self.shrink(image) for image in pixels])
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight + bias, 0.0)
        weight, bias = self.layers[-1]
        return x.astype(np.float32), (x @ weight + bias).astype(np.float32)

    @staticmethod
    def shrink(image: np.ndarray) -> np.ndarray:
        """From uint8 (height, width, channels) to 64 grey values in [0, 1], float64."""
        grey = image[:, :, :3].astype(np.float32).mean(2)
        small = Image.fromarray(grey).resize((8, 8), Image.Resampling.BOX)
        return np.asarray(small, np.float64).reshape(-1) / 255.0


def load_digits_network() -> Digits:
    """The classifier; trained on the first call (seconds), then cached in the user's cache folder."""
    path = cache_dir() / "digits-classifier-1.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return Digits([(file[f"weight{number}"], file[f"bias{number}"]) for number in range(3)])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    layers = train_digits_network()
    arrays = {f"weight{n}": weight for n, (weight, _) in enumerate(layers)}
    arrays |= {f"bias{n}": bias for n, (_, bias) in enumerate(layers)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as tmp_path, open(tmp_path, "wb") as opened:
            np.savez(opened, **arrays)  # type: ignore[arg-type]
    except OSError:
        pass  # trained again the next time
    return Digits(layers)


def train_digits_network() -> list[tuple[np.ndarray, np.ndarray]]:
    """Two hidden layers, of 64 and 32 units, by scikit-learn; the same on the same machine each time."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    classifier = MLPClassifier((64, Digits.width), alpha=1e-3, max_iter=200, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it might be trained for longer
        classifier.fit(digits.data / 16.0, digits.target)
    return list(zip(classifier.coefs_, classifier.intercepts_, strict=True))
