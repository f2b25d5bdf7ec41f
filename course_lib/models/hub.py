"""A policy from the model hub, kept in the hub client's own cache."""

from pathlib import Path

from course_lib.models.errors import PolicyError
from course_lib.models.folder import check_folder

_NEEDED = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model"]
_PATIENCE = 10.0  # seconds for the hub's first answer
_INSTEAD = "Use 'smollm2', which needs no network, or give a folder that holds the model."


def fetch(name: str) -> Path:
    """Return the local snapshot of a hub repository, fetched where it is not there yet.

    Without a network, a snapshot that was fetched before is used as it is.

    Raises:
        PolicyError: The hub can't be reached, has no such model, or wants a licence accepted first.
    """
    from huggingface_hub import errors

    try:
        return check_folder(_snapshot(name))
    except errors.GatedRepoError as error:
        raise PolicyError(
            f"The hub gives {name!r} only to people who accepted its licence. Accept it on its page, set HF_TOKEN "
            f"to your access token and run this again. Or: {_INSTEAD}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PolicyError(
            f"The hub has no model {name!r} (or it is private and HF_TOKEN not set), and no folder is called {name!r} "
            f"here. Check the spelling, organisation first: 'Qwen/Qwen3-4B-Instruct-2507'. {_INSTEAD}"
        ) from error
    except errors.HFValidationError as error:
        raise PolicyError(f"{name!r} is neither a folder nor a possible hub name ({error}) {_INSTEAD}") from error
    except PolicyError:
        raise
    except Exception as error:  # the client's transport changes between releases, and with it the exceptions
        raise PolicyError(
            f"{name!r} is no folder here, and fetching it from the model hub failed: {_why(error)} {_INSTEAD}"
        ) from error


def _snapshot(name: str) -> Path:
    from huggingface_hub import HfApi, errors, snapshot_download

    try:
        # Asked first: snapshot_download waits without limit for a hub that accepts a connection and stays silent.
        HfApi().model_info(name, timeout=_PATIENCE)
    except errors.HFValidationError:
        raise
    except Exception as unreachable:  # noqa: BLE001 (raised again below, unless the snapshot is here)
        try:
            return Path(snapshot_download(name, allow_patterns=_NEEDED, local_files_only=True))
        except errors.LocalEntryNotFoundError:
            raise unreachable from None
    return Path(snapshot_download(name, allow_patterns=_NEEDED, etag_timeout=_PATIENCE))


def _why(error: BaseException) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and the model is not in the hub client's cache; unset it to go online."
    first = (str(error).strip().splitlines() or [""])[0].removesuffix(".")
    return f"{type(error).__name__}{': ' if first else ''}{first}. Check the network, and run this again."
