"""Settings of hubs: which one, and what is uploaded to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mindone_ddpm.common.hubs import HUBS, HUGGINGFACE
from mindone_ddpm.config.fields import Settings, setting

HEADING = "hub"


@dataclass
class HubChoice(Settings):
    """Where names of models and data sets are looked up."""

    heading: ClassVar[str] = HEADING
    shown_last: ClassVar[bool] = True

    hub: str = setting(
        HUGGINGFACE,
        "where names of models and data sets are looked up, and models uploaded to",
        choices=HUBS,
        outside_graph=True,
    )


@dataclass
class UploadConfig(HubChoice):
    """Uploads."""

    heading: ClassVar[str] = HEADING
    shown_last: ClassVar[bool] = True

    hub_model_id: str | None = setting(
        None, "the repository to upload to; by default the folder's name, of the logged-in user", private=True
    )
    hub_private_repo: bool = setting(False, "make that repository a private one", private=True)
    hub_token: str | None = setting(None, "token for the hub; better given by its variable or a login", secret=True)
    hub_license: str | None = setting(
        None, "license named in the model card, such as apache-2.0; Modelers takes no card without one"
    )


@dataclass
class HubConfig(UploadConfig):
    """Uploads of what is trained."""

    heading: ClassVar[str] = HEADING
    shown_last: ClassVar[bool] = True

    push_to_hub: bool = setting(False, "upload the pipeline to the hub whenever it is saved", private=True)
