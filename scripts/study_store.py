"""The study's stored results, docs/study/*.json, and the pages that show them.

A page has blocks `<!-- FORM SETTING -->` ... `<!-- / -->`. What is in one is made of docs/study/PART.json, PART being
the first part of SETTING: setting -> form -> header and rows of its table, and verdicts as sentences. `measured.json`
holds what other commands measured, and the names of the settings that the summary lists.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from rmbench.files import Json
from rmbench.reporting.text import markdown_table

ROOT = Path(__file__).parent.parent
STORE = ROOT / "docs" / "study"
PAGES = (ROOT / "STUDY.md", ROOT / "README.md")
BLOCK = re.compile(r"<!-- (?P<form>\w+)(?P<settings>( [\w/]+)*) -->\n(?P<shown>.*?)<!-- / -->", re.DOTALL)
DECIMAL = re.compile(r"(?<![\w.])\d[\d,]*\.\d+(?![\w.]*\d)")
SENTENCE = re.compile(
    r"- (?P<group>.+?) - (?P<baseline>.+?) on (?P<place>[\w -]+): (?P<value>[+-][\d.]+) points"
    r"(?: \[(?P<low>[-\d.]+), (?P<high>[-\d.]+)\])?, (?P<seeds>\d+) seeds, .*?: (?P<verdict>[^;]+)(?:;.*)?"
)
SUMMARIES = ("summary", "readme")


def parsed(text: str) -> Json:
    """A block's table and sentences as data."""
    lines = text.strip().split("\n")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    found: Json = {"verdicts": [line for line in lines if line.startswith("- ")]}
    return found | ({"header": table[0], "rows": table[2:]} if table else {})


def rendered(block: Json) -> str:
    """The Markdown that `parsed` read."""
    table = "\n".join(markdown_table(block["header"], block["rows"])) if "header" in block else ""
    return "\n\n".join(part for part in (table, "\n".join(block["verdicts"])) if part)


def stored() -> dict[str, Json]:
    """Setting -> form -> block, of every file but measured.json."""
    found: dict[str, Json] = {}
    for file in sorted(STORE.glob("*.json")):
        if file.name != "measured.json":
            found |= json.loads(file.read_text())
    return found


def store(setting: str, form: str, text: str) -> None:
    """Keep a block in the file of its setting."""
    file = STORE / f"{setting.partition('/')[0]}.json"
    content = json.loads(file.read_text()) if file.is_file() else {}
    content.setdefault(setting, {})[form] = parsed(text)
    STORE.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def lines_of(results: dict[str, Json]) -> Iterator[tuple[str, re.Match[str]]]:
    """(title of the setting, verdict on its own held-out pairs) of the study's main comparisons."""
    for setting, title in json.loads((STORE / "measured.json").read_text())["settings"].items():
        for sentence in results[setting]["results"]["verdicts"]:
            match = SENTENCE.fullmatch(sentence)
            if match and match["place"] == "held-out pairs" and match["baseline"] == "bt":
                yield title, match


def summary(results: dict[str, Json]) -> str:
    """NormBT and its forms against BT in every setting."""
    rows = [
        [title, m["group"], m["value"], f"[{m['low']}, {m['high']}]", m["seeds"], m["verdict"]]
        for title, m in lines_of(results)
        if m["group"].startswith("normbt")
    ]
    header = ["setting", "loss", "difference from BT, points", "95 % interval", "seeds", "verdict"]
    return "\n".join(markdown_table(header, rows))


def readme(results: dict[str, Json]) -> str:
    """NormBT alone."""
    rows = [
        [title, f"{m['value']} [{m['low']}, {m['high']}]", m["verdict"].replace("Holm's correction", "correction")]
        for title, m in lines_of(results)
        if m["group"] == "normbt"
    ]
    return "\n".join(markdown_table(["setting", "NormBT - BT, points [95 %]", "verdict"], rows))


def page_of(text: str, results: dict[str, Json]) -> str:
    """The page with every block made of the stored results; a block without results stays as it is."""

    def block(match: re.Match[str]) -> str:
        """One block, anew."""
        form, setting = match["form"], match["settings"].strip()
        if form in SUMMARIES:
            shown = summary(results) if form == "summary" else readme(results)
        elif form in results.get(setting, {}):
            shown = rendered(results[setting][form])
        else:
            return match[0]
        return f"<!-- {form}{match['settings']} -->\n{shown}\n<!-- / -->"

    return BLOCK.sub(block, text)


def faults() -> list[str]:
    """What the pages say and the stored results do not: blocks, and decimal numbers in the text around them."""
    results, found = stored(), []
    known = roundings(decimals(json.dumps(results) + (STORE / "measured.json").read_text()))
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if page_of(match[0], results) != match[0]:
                found.append(f"{page.name}: the block `{match['form']}{match['settings']}` is not what is stored.")
            elif match["form"] not in SUMMARIES and match["form"] not in results.get(match["settings"].strip(), {}):
                found.append(f"{page.name}: nothing is stored for the block `{match['form']}{match['settings']}`.")
        for number in sorted(decimals(prose(page.name, text)) - known):
            found.append(f"{page.name}: {number} in the text is in no stored result.")
    return found


def prose(name: str, text: str) -> str:
    """What is written around the blocks; of README the section on the study alone."""
    if name == "README.md":
        text = text.partition("## What the study found")[2].partition("\n## ")[0]
    return re.sub(r"arXiv [\d.]+|`[^`]*`", "", BLOCK.sub("", text))


def decimals(text: str) -> set[str]:
    """The decimal numbers of a text as they stand there."""
    return {number.replace(",", "") for number in DECIMAL.findall(text)}


def roundings(numbers: set[str]) -> set[str]:
    """Each number, and with fewer digits, as a text rounds it."""
    return numbers | {f"{float(n):.{d}f}" for n in numbers for d in range(1, len(n.partition(".")[2]))}
