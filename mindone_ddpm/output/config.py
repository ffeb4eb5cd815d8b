"""Configuration: dataclasses that become the command line, a YAML file and the run's own record.

Never imports MindSpore, so that ``--help`` answers at once. A field's ``metadata`` holds its help text, the other
names by which the published scripts know it, and what it may be; :func:`validate` reports every problem together.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.fields import check_fields, setting


@dataclass
class PushConfig:
    """Uploading a pipeline that lies in a folder. The flags are those of training."""

    model: str = setting("", "folder of a saved pipeline")
    hub_model_id: str | None = setting(None, "its repository; by default the folder's name, of the logged-in user")
    hub_private_repo: bool = setting(False, "make that repository a private one")
    hub_token: str | None = setting(None, "token for the Hub; better given by HF_TOKEN or a login", secret=True)


def check_push(config: PushConfig) -> None:
    """Raises ConfigError with one line for each problem."""
    problems = check_fields(config)
    if not config.model:
        problems.append("--model: give the folder of a saved pipeline")
    if problems:
        raise ConfigError(*problems)
