"""Where the shipped configuration is."""

from pathlib import Path


def conf_dir() -> Path:
    """The folder with `train.yaml`: `rmbench/conf` in an installed wheel, the top-level `conf` in a checkout.

    A `conf` folder in the working directory is never taken by accident.

    Raises:
        FileNotFoundError: the installation is broken; neither place holds `train.yaml`.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/train.yaml in {package} or next to it; install rmbench again")
