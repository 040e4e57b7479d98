"""Classifiers on the Hugging Face Hub: fetched by `hf://OWNER/NAME`, and sent there."""

import os
from collections.abc import Mapping
from pathlib import Path

from tellapart.errors import HubFailed, printable
from tellapart.optional import require
from tellapart.progress import Event, Progress

PREFIX = "hf://"
MODEL = "model.safetensors"


def fetch_model(address: str, progress: Progress) -> Path:
    """Return the file of the classifier at `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION`, fetched if need be.

    Raises `HubFailed`, or `MissingExtra`.
    """
    library = require("huggingface_hub", "hub")
    repository, _, revision = address.removeprefix(PREFIX).partition("@")
    progress.report(
        Event.DOWNLOAD_START,
        f"Taking {repository} from the Hugging Face Hub, or from this machine if it was fetched before.",
    )
    try:
        return Path(library.hf_hub_download(repository, MODEL, revision=revision or None))
    except Exception as error:  # of many kinds, those of the library's own HTTP client among them
        raise _failed(f"Cannot fetch {MODEL} of {printable(repository)}", error) from error


def upload(repository: str, files: Mapping[str, bytes | Path], message: str, private: bool) -> str:
    """Make a repository of models if there is none, put files into it as one commit, and return its address.

    Raises `HubFailed`, or `MissingExtra`.
    """
    library = require("huggingface_hub", "hub")
    operations = [
        library.CommitOperationAdd(name, content if isinstance(content, bytes) else os.fspath(content))
        for name, content in files.items()
    ]
    try:
        hub = library.HfApi()
        place = hub.create_repo(repository, private=private or None, exist_ok=True)
        if private and not hub.model_info(place.repo_id).private:  # one that was there before stays as it is
            raise HubFailed(
                f"Nothing was sent: {printable(repository)} is there already and is public; make it private in its "
                "settings on the Hub, or name another one."
            )
        hub.create_commit(place.repo_id, operations, commit_message=message)
    except HubFailed:
        raise
    except Exception as error:  # of many kinds, those of the library's own HTTP client among them
        raise _failed(f"Cannot send to {printable(repository)}", error) from error
    return str(place)


def _failed(what: str, error: Exception) -> HubFailed:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        reason = "it is private, or not yours: sign in by `hf auth login`, or set HF_TOKEN"
    elif status == 404:
        reason = "there is no such repository, or it lacks that file; a private one looks the same until you sign in"
    elif status is None and "Connect" in type(error).__name__:
        reason = (
            f"the Hub does not answer ({printable(str(error))}): check the connection, and HF_ENDPOINT if it is set"
        )
    else:
        reason = printable(" ".join(str(error).split()))[:300] or type(error).__name__
    return HubFailed(f"{what}: {reason}.")
