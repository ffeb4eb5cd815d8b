"""Settings of uploads. Free of MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.config.fields import setting
from mindone_ddpm.config.hub import HEADING, UploadConfig


@dataclass
class PushConfig(UploadConfig):
    """Uploading a pipeline that lies in a folder. The flags are those of training."""

    heading: ClassVar[str] = HEADING

    model: str = setting("", "folder of a saved pipeline")

    def own_problems(self) -> list[str]:
        problems = []
        if not self.model:
            problems.append("--model: give the folder of a saved pipeline")
        return problems
