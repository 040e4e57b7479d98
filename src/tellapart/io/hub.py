"""Classifiers on the Hugging Face Hub: download from `hf://OWNER/NAME`, and upload."""

import os
from collections.abc import Mapping
from pathlib import Path

from tellapart.errors import HubError, printable
from tellapart.io.run_directory import CLASSIFIER
from tellapart.optional import require
from tellapart.progress import Event, Progress

PREFIX = "hf://"
_MAX_REASON = 300  # characters


def fetch_model(address: str, progress: Progress) -> Path:
    """Return the classifier file at `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION`, downloading it if needed.

    Raises `HubError`, or `MissingExtraError`.
    """
    library = require("huggingface_hub", "hub")
    repository, _, revision = address.removeprefix(PREFIX).partition("@")
    progress.report(Event.DOWNLOAD_START, f"Loading {repository} from the Hugging Face Hub, or from the local cache.")
    try:
        return Path(library.hf_hub_download(repository, CLASSIFIER, revision=revision or None))
    except Exception as error:  # of many classes, such as those of the library's HTTP client
        raise _hub_error(f"Cannot download {CLASSIFIER} of {printable(repository)}", error) from error


def upload(repository: str, files: Mapping[str, bytes | Path], message: str, private: bool) -> str:
    """Create a model repository if it does not exist, add files to it in one commit, and return its address.

    Raises `HubError`, or `MissingExtraError`.
    """
    library = require("huggingface_hub", "hub")
    operations = [
        library.CommitOperationAdd(name, content if isinstance(content, bytes) else os.fspath(content))
        for name, content in files.items()
    ]
    try:
        hub = library.HfApi()
        url = hub.create_repo(repository, private=private or None, exist_ok=True)
        if private and not hub.model_info(url.repo_id).private:  # create_repo does not change an existing repository
            raise HubError(
                f"Nothing was uploaded: {printable(repository)} exists and is public; make it private in its settings "
                "on the Hub, or choose another name."
            )
        hub.create_commit(url.repo_id, operations, commit_message=message)
    except HubError:
        raise
    except Exception as error:  # of many classes, such as those of the library's HTTP client
        raise _hub_error(f"Cannot upload to {printable(repository)}", error) from error
    return str(url)


def _hub_error(action: str, error: Exception) -> HubError:
    return HubError(f"{action}: {_explain(error)}.")


def _explain(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "it is private, or you may not write to it; sign in with `hf auth login`, or set HF_TOKEN"
    if status == 404:
        return (
            "the repository does not exist, lacks that file, or is private; to access a private one, sign in with "
            "`hf auth login`, or set HF_TOKEN"
        )
    if status is None and "Connect" in type(error).__name__:
        return (
            f"the Hub cannot be reached ({printable(str(error))}); check the connection, and HF_ENDPOINT if it is set"
        )
    return printable(" ".join(str(error).split()))[:_MAX_REASON] or type(error).__name__
