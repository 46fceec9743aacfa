"""What a user installs brings its configuration along."""

import subprocess
import sys
import zipfile

from helpers.paths import CHECKOUT, needs_checkout


@needs_checkout
def test_the_wheel_holds_conf_and_works_away_from_the_checkout(tmp_path):
    build = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    yamls = {path.relative_to(CHECKOUT / "conf") for path in (CHECKOUT / "conf").rglob("*.yaml")}
    site = tmp_path / "site" / "rmbench" / "conf"
    assert {path.relative_to(site) for path in site.rglob("*.yaml")} == yamls
    done = subprocess.run(
        [sys.executable, "-m", "rmbench", "config", "train", "loss=normbt"],
        cwd=tmp_path / "site",  # first on the path of `python -m`
        capture_output=True,
        text=True,
        check=True,
    )
    assert "weighting: distance" in done.stdout
