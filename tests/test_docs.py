"""Documents: links lead somewhere, targets and settings that they name exist."""

import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest

import main
from commands.runs import early_check
from commands.runs.early_check import read_settings
from commands.runs.foundations import find_foundation

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def _anchors(page):
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def _broken_links(page, text):
    for groups in LINK.findall(FENCED.sub("", text)):
        link = unquote(next(filter(None, groups)))
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            yield f"{page.relative_to(ROOT)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    assert [*_broken_links(page, page.read_text(encoding="utf-8"))] == []


def test_a_link_that_leads_nowhere_is_found():
    page = ROOT / "README.md"
    text = "[a](docs/none.md) [b](LICENSE) [c](#none) ![d](docs/none.png) [e](https://none.org)"
    broken = [*_broken_links(page, text)]
    assert broken == [f"README.md: {name}" for name in ("docs/none.md", "#none", "docs/none.png")]


def test_every_page_of_docs_is_in_the_readmes_index():
    index = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in ROOT.glob("docs/*.md") if f"docs/{page.name}" not in index] == []


def test_every_make_target_in_a_document_exists():
    targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    configs = [*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("configs/**/*.sbatch")]
    unknown = {
        f"{file.relative_to(ROOT)}: make {name}"
        for file in [*pages, *configs]
        for name in re.findall(r"(?:^|`|# )make ([a-z-]+)", file.read_text(encoding="utf-8"), re.M)
        if name not in targets
    }
    assert unknown == set()


def test_every_verb_and_every_variable_of_a_command_in_a_document_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    unknown = set()
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        verbs = re.findall(r"main\.py ([a-z_]+)", text)
        unknown |= {f"{page.name}: main.py {verb}" for verb in verbs if verb not in main.VERBS}
        for command in re.findall(r"^make .*", text, re.MULTILINE):
            names = re.findall(r" ([A-Z]\w*)=", re.sub(r'"[^"]*"', "", command))
            missing = [name for name in names if f"$({name})" not in makefile]
            unknown |= {f"{page.name}: {name}= in {command}" for name in missing}
    assert unknown == set()


def test_every_file_that_a_document_names_in_configs_exists():
    names = {
        (page.name, name)
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for name in re.findall(r"configs/[\w/]+\.(?:yaml|sbatch)", page.read_text(encoding="utf-8"))
    }
    own = {"configs/knees.yaml", "configs/two.yaml"}  # files that a reader writes
    gone = {"configs/lgg/finetune.yaml"}  # a measurement of an earlier commit
    assert {name for _, name in names if not (ROOT / name).is_file()} <= own | gone


MADE_OF = {  # verb and YAML files of a target that trains
    "finetune": ("finetune", "finetune"),
    "baseline": ("finetune", "finetune", "baseline"),
    "classical": ("classical", "finetune"),
    "pretrain": ("pretrain", "pretrain"),
    "predict": ("predict",),
    "export": ("export",),
    "sweep": ("finetune", "finetune"),
}


def test_every_setting_in_the_table_of_systems_exists():
    text = (ROOT / "docs/systems.md").read_text(encoding="utf-8")
    commands = [command for command in re.findall(r"`(make [^`]+)`", text) if "ARGS=" in command]
    assert len(commands) > 15
    for command in commands:
        _, target, *words = shlex.split(command)
        given = dict(word.partition("=")[::2] for word in words)
        verb, *files = MADE_OF[target]
        settings = read_settings([f"-c{ROOT}/configs/{name}.yaml" for name in files])
        settings |= read_settings(shlex.split(given["ARGS"]))
        names = early_check._names_of_verb(verb, settings)
        assert names is not None
        for name in settings:
            early_check._check_name(name, names)  # refuses what there is not
    methods = re.findall(r"METHOD=(\w+)", text)
    assert all((ROOT / f"configs/pretrain/{method}.yaml").is_file() for method in methods)
    assert all(find_foundation(name) for name in re.findall(r"INIT=(hf:[\w-]+)", text))
