"""Folders of weights on the Hugging Face hub: fetched, and sent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from jepa_core.weights.folders import CONFIG, WEIGHTS

FILES = (CONFIG, WEIGHTS, "model-*.safetensors", "*.index.json")


def local_folder(
    path_or_hub_id: str | os.PathLike[str], revision: str | None = None, files: Sequence[str] = FILES
) -> Path:
    """A local folder as it is, or one of the hub, which is fetched.

    Args:
        path_or_hub_id: a folder, or ``<owner>/<name>``.
        revision: branch, tag or commit on the hub; None = its main branch.
        files: patterns of what is fetched.

    Raises:
        ValueError: it is neither, cannot be had from the hub, or has a revision and is local.
    """
    folder = Path(path_or_hub_id)
    if not folder.is_dir():
        return _downloaded(str(path_or_hub_id), revision, files)
    if revision is not None:
        raise ValueError(f"revision: expected none with a local folder, got {revision!r}")
    return folder


class Saves(Protocol):
    """What writes itself into a folder."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None: ...


class PushesToHub:
    """Gives what has ``save_pretrained`` the way to the hub."""

    def push_to_hub(
        self: Saves,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload model",
        token: str | None = None,
    ) -> str:
        """Writes to the Hugging Face hub what ``save_pretrained`` writes; returns the address of the commit.

        Args:
            repo_id: ``<owner>/<name>``; made where there is none.
            private: of a repository that is made; None = the owner's default.
            revision: branch; None = main.
            commit_message: of the commit.
            token: None = that of ``hf auth login``.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=name, folder_path=folder, revision=revision, commit_message=commit_message
            )
        return str(commit.commit_url)


def _downloaded(repo_id: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(files)))
    except HFValidationError:
        raise ValueError(f"{repo_id}: expected a folder or <owner>/<name> on the hub, got neither") from None
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ValueError(f"{repo_id}: cannot be had from the hub: {' '.join(str(error).split())[:200]}") from None
