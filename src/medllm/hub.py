"""Uploads a finished artifact to the Hugging Face hub."""

from pathlib import Path

from medllm.config.hub import HubConf
from medllm.errors import HubError


def push(conf: HubConf, folder: Path) -> str:
    """Creates the repository if needed, uploads the folder in one commit and returns its address.

    The token comes from the environment (`HF_TOKEN`) or from `hf auth login`.

    Raises:
        HubError: if the hub refuses or cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name="medllm")
    try:
        api.create_repo(str(conf.hub_model_id), private=conf.hub_private_repo, exist_ok=True)
        commit = api.upload_folder(
            repo_id=str(conf.hub_model_id), folder_path=folder, commit_message="Upload by medllm"
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise HubError(
            f"hub.hub_model_id={conf.hub_model_id} cannot be uploaded: {reason}\n"
            f"    fix: set HF_TOKEN to a token with write access; the artifact is safe in {folder}"
        ) from None
    return str(getattr(commit, "repo_url", "") or conf.hub_model_id)
