"""What a command shows on a terminal, as text and PNG; what a page looks like. Used by scripts/look.sh."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROWS = 50
BROWSER = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
FORMS = {"light": (1100, "light"), "dark": (1100, "dark"), "400px": (400, "light")}


def run(command: list[str], width: int) -> tuple[str, str]:
    """A command's output on a terminal of `width` columns: all that stays, and the last picture of its bars."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, width, 0, 0))
    chunks = []
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        chunks.append(data)
    os.waitpid(pid, 0)
    text = b"".join(chunks).decode(errors="replace")
    return settled(text), bars(text)


def settled(text: str) -> str:
    """The lines that are left: what was overwritten is gone."""
    lines: list[str] = [""]
    at = 0
    for piece in re.split(r"(\r|\n|\x1b\[[0-9;?]*[A-Za-z])", text):
        moved = re.fullmatch(r"\x1b\[(\d*)A", piece)
        if piece == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif piece == "\r":
            continue
        elif moved:
            at = max(0, at - int(moved[1] or 1))
        elif piece == "\x1b[2K":
            lines[at] = ""
        elif piece.startswith("\x1b[") and not piece.endswith("m"):
            continue
        else:
            lines[at] += piece
    return "\n".join(lines).rstrip() + "\n"


def bars(text: str) -> str:
    """A line from the middle of the bar that is seen most, colours included; empty without one."""
    shown = [line for line in re.split(r"\r|\n", text) if "━" in line and re.search(r"\d+/\d+", line)]
    names = [Text.from_ansi(line).plain.split()[0] for line in shown]
    most_seen = max(set(names), key=names.count, default="")
    most = [line for line, name in zip(shown, names, strict=True) if name == most_seen]
    return most[len(most) // 2] if most else ""


def picture(text: str, width: int, stem: Path) -> None:
    """The text with its colours as SVG and, with Chromium, as PNG."""
    console = Console(width=width, record=True, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(text), soft_wrap=False)
    console.save_svg(str(stem.with_suffix(".svg")), title=stem.name)
    svg = stem.with_suffix(".svg").read_text()
    _, _, w, h = (float(n) for n in re.search(r'viewBox="([^"]*)"', svg)[1].split())  # type: ignore[index]
    shoot(stem.with_suffix(".svg"), stem.with_suffix(".png"), int(w), int(h) + 1)
    stem.with_suffix(".svg").unlink()


def shoot(source: Path, target: Path, width: int, height: int, theme: str = "light") -> None:
    """A screenshot of a file by Chromium; nothing without one.

    Args:
        source: HTML or SVG.
        target: PNG.
        width, height: of the window, in pixels.
        theme: light or dark.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return
    scheme = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    flags = [*BROWSER, scheme, f"--window-size={width},{height}", f"--screenshot={target}"]
    subprocess.run([chromium, *flags, source.resolve().as_uri()], check=True, capture_output=True, timeout=60)


def page(source: Path, folder: Path) -> None:
    """The page in light, dark, in a narrow window (all of it, in a frame of that width) and as PDF."""
    for name, (width, theme) in FORMS.items():
        # Chromium's windows are at least 500 pixels wide; a frame may be narrower
        frame = folder / f"{name}.html"
        inside = f'src="{source.resolve().as_uri()}" width="{width}" height="5200" style="border:0"'
        frame.write_text(f'<body style="margin:0"><iframe {inside}></iframe>')
        shoot(frame, folder / f"{name}.png", max(width, 500), 5200, theme)
        frame.unlink()
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or ""
    flags = [*BROWSER, "--no-pdf-header-footer", f"--print-to-pdf={folder / 'printed.pdf'}"]
    subprocess.run([chromium, *flags, source.resolve().as_uri()], check=True, capture_output=True, timeout=60)
    if shutil.which("pdftoppm"):
        subprocess.run(["pdftoppm", "-r", "80", "-png", folder / "printed.pdf", folder / "printed"], check=True)
    elif shutil.which("mutool"):
        drawn = ["mutool", "draw", "-q", "-r", "80", "-o", folder / "printed-%d.png", folder / "printed.pdf"]
        subprocess.run(drawn, check=True, capture_output=True)


def main() -> None:
    """`capture.py STEM WIDTH COMMAND...` or `capture.py --page FILE FOLDER`."""
    if sys.argv[1] == "--page":
        page(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    stem, width, command = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    started = time.monotonic()
    text, bar = run(command, width)
    shown = f"$ {' '.join(command)}\n" + (f"{bar}\n" if bar else "") + text
    stem.with_suffix(".txt").write_text(Text.from_ansi(shown).plain)
    picture(shown, width, stem)
    print(f"  {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
