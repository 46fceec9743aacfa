"""The Hugging Face Hub, quick to fail: `prepare` before a fetch, `explain` when one went wrong.

Left to themselves the Hub's clients retry an unreachable server for minutes and answer with nested tracebacks.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from safetensors import SafetensorError, safe_open

from rmbench.errors import UserError
from rmbench.foreign.datasets import go_offline

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
ONLINE = ("0", "OFF", "NO", "FALSE")  # values of HF_HUB_OFFLINE that forbid to go offline
OFFLINE = ("1", "ON", "YES", "TRUE")
LFS_POINTER = b"version https://git-lfs"
_UNREACHABLE = {
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "RevisionResolutionError",
    "ConnectionError",
    "TimeoutError",
    "TransportError",
}


def prepare() -> None:
    """Call before anything is fetched by a Hub id: where the Hub is out of reach, only cached files are used.

    The check opens one TCP connection, to the proxy if the environment names one. Offline mode then holds for this
    process; a HF_HUB_OFFLINE that the user has set is left as it is, unless huggingface_hub knows no such value.
    """
    from huggingface_hub import constants

    asked = os.environ.get("HF_HUB_OFFLINE", "")
    if asked.upper() in ONLINE or constants.is_offline_mode():
        return
    if asked:
        log.warning("HF_HUB_OFFLINE=%s is neither 1 nor 0 and changes nothing.", asked)
    if not reachable(constants.ENDPOINT, CONNECT_SECONDS):
        log.warning("%s does not answer within %g s: only cached files are used.", constants.ENDPOINT, CONNECT_SECONDS)
        _go_offline()


def reachable(url: str, seconds: float) -> bool:
    """Whether `url`'s server, or the proxy in front of it, accepts a TCP connection within `seconds`."""
    host, port = _gateway(url)
    return _accepts_connection(host, port, seconds)


def local_path(name_or_path: str) -> Path | None:
    """The existing file or folder that `name_or_path` means (`~` expanded), or None for a Hub id.

    Raises:
        UserError: it is written like a path (starts with `.`, `/` or `~`, or has more than one `/`) and is not there.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path and path.exists():
        return path
    if not name_or_path or name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise UserError(f"{name_or_path or '(empty name)'}: no such file or folder, and not a Hub id (OWNER/NAME).")
    return None


def is_local(name_or_path: str) -> bool:
    """Whether `name_or_path` is a file or folder on this machine rather than a Hub id.

    Raises:
        UserError: as `local_path`.
    """
    return local_path(name_or_path) is not None


def explain(kind: str, name: str, error: BaseException, remedy: str) -> UserError:
    """An error of `huggingface_hub`, `transformers` or `datasets` as one message that says what to do.

    Args:
        kind: what was asked for: "model", "tokenizer", "dataset".
        name: its Hub id or local path.
        error: the exception; its causes are searched too.
        remedy: how to do without the Hub, such as "dataset.path=FILE".
    """
    chain = list(_causes(error))
    names = {c.__name__ for e in chain for c in type(e).__mro__}
    text = " ".join(str(e) for e in chain)
    detail = _first_line(error)
    instead = f"Or use local files: {remedy}"
    place = Path(name).expanduser()
    if place.exists():
        if isinstance(error, KeyError):
            detail = f"a file in it names {detail}, which the installed transformers does not know"
        elif "Padding_idx" in detail:
            detail = "pad_token_id in config.json is no row of the embedding; correct it, or write null"
        return UserError(f"{name}: cannot be read as a {kind}: {_broken_file(place) or _pickled(place) or detail}")
    if "GatedRepoError" in names or ("DatasetNotFoundError" in names and "gated" in text):
        return UserError(
            f"{kind} {name} is gated: its owner must grant access.\nAsk for it at {_page(kind, name)}, then log in "
            f"with `hf auth login` or set HF_TOKEN.\n{instead}"
        )
    if "RevisionNotFoundError" in names:
        return UserError(
            f"{kind} {name} has no such revision (branch, tag or commit); see {_page(kind, name)}\n{instead}"
        )
    if names & {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"}:
        return UserError(
            f"{kind} {name}: no such id on {_endpoint()}, and no such local folder. Check the spelling; for a private "
            f"one, log in with `hf auth login` or set HF_TOKEN.\n{instead}"
        )
    if names & _UNREACHABLE:
        no_folder = "" if kind == "dataset" else f" There is no folder {name} either."
        return UserError(
            f"{kind} {name} is neither in the local cache nor reachable: {_why_offline()}.{no_folder}\n"
            f"Connect once to fetch it (HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy). {instead}"
        )
    return UserError(f"{kind} {name} from {_endpoint()} cannot be used: {detail}\n{instead}")


def _pickled(folder: Path) -> str:
    """Weights that are stored in pickle alone, and the way to the other form; empty if there are none."""
    found = sorted(folder.glob("pytorch_model*.bin")) if folder.is_dir() else []
    if not found or any(folder.glob("*.safetensors")):
        return ""
    return (
        f"its weights are pickled ({found[0].name}), which can run code, so they are not read.\nIf you trust them, load"
        " the folder with transformers and save it again (save_pretrained writes safetensors)"
    )


def _broken_file(folder: Path) -> str:
    """The file of a local folder that is not what its name says; empty if none is, or it cannot be told."""
    for file in sorted(folder.glob("*")) if folder.is_dir() else []:
        try:
            with file.open("rb") as stream:
                start = stream.read(len(LFS_POINTER))
            if start == LFS_POINTER:
                return f"{file.name} is a Git LFS pointer; download the file: git lfs pull"
            if file.suffix == ".json" and not isinstance(json.loads(file.read_bytes()), dict):
                return f"{file.name} holds no JSON object"
            if file.name == "model.safetensors.index.json" and not (folder / "model.safetensors").is_file():
                parts = sorted(set(json.loads(file.read_bytes()).get("weight_map", {}).values()))
                if absent := [part for part in parts if not (folder / part).is_file()]:
                    return f"{file.name} names {', '.join(absent[:3])}, not in the folder; fetch what is missing"
            if file.suffix == ".safetensors":
                with safe_open(file, "numpy"):
                    pass
        except SafetensorError as error:
            return f"{file.name} is cut off or damaged ({error}); fetch it again"
        except ValueError as error:
            return f"{file.name} is not a valid JSON file: {error}"
        except OSError:
            continue
    return ""


def _gateway(endpoint: str) -> tuple[str, int]:
    """Host and port that must accept a connection: the endpoint's, or those of the proxy in front of it."""
    url = urlsplit(endpoint)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(url.netloc):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    default_port = {"https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080}.get(url.scheme, 80)
    try:
        return url.hostname or "", url.port or default_port
    except ValueError as error:
        name = "the proxy (HTTPS_PROXY, ALL_PROXY)" if proxy else "HF_ENDPOINT"
        raise UserError(f"{url.geturl()} is not an address: {error}. Correct {name} in the environment.") from error


def _accepts_connection(host: str, port: int, seconds: float) -> bool:
    """Try in a thread of its own: a name look-up has no time limit."""
    connected = threading.Event()
    done = threading.Event()

    def connect() -> None:
        """Set `connected` if the host answers, and `done` either way."""
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            connected.set()
        except (OSError, UnicodeError):  # UnicodeError: a host name that cannot be one
            pass
        finally:
            done.set()

    threading.Thread(target=connect, daemon=True).start()
    done.wait(seconds)
    return connected.is_set()


def _go_offline() -> None:
    """huggingface_hub and transformers ask `constants` at every call; datasets keeps a copy of its own."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    go_offline()


def _why_offline() -> str:
    from huggingface_hub import constants

    asked_for = any(os.environ.get(name, "").upper() in OFFLINE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return "offline mode is on" if asked_for and constants.is_offline_mode() else f"no answer from {_endpoint()}"


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _page(kind: str, name: str) -> str:
    return f"{_endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and everything it was raised from or while handling."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and not any(one is e for e in seen):
            seen.append(one)
            todo += [one.__context__, one.__cause__]
            yield one


def _first_line(error: BaseException) -> str:
    """The error's first sentence; a line that announces a list brings the list along."""
    lines = str(error).strip().splitlines()
    if lines and lines[0].rstrip().endswith(":"):
        return " ".join(line.strip() for line in lines)[:300]
    return lines[0] if lines else type(error).__name__
