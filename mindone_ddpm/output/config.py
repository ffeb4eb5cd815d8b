"""Settings of uploads. Free of MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import Settings, setting


@dataclass
class PushConfig(Settings):
    """Uploading a pipeline that lies in a folder. The flags are those of training."""

    heading: ClassVar[str] = "Hugging Face Hub"

    model: str = setting("", "folder of a saved pipeline")
    hub_model_id: str | None = setting(None, "its repository; by default the folder's name, of the logged-in user")
    hub_private_repo: bool = setting(False, "make that repository a private one")
    hub_token: str | None = setting(None, "token for the Hub; better given by HF_TOKEN or a login", secret=True)

    def own_problems(self) -> list[str]:
        problems = []
        if not self.model:
            problems.append("--model: give the folder of a saved pipeline")
        return problems
