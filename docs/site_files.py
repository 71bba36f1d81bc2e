"""What `mkdocs` shows: the repository's own pages, each at its own path, so that a link works here and there.

The README is the first page, `stages/*/README.md` are the pages of the stages, and the reference of commands is written from
the command line itself.
"""

from __future__ import annotations

import re
from pathlib import Path

import typer.cli
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from weaksam_cli.cli.app import app

PAGES = (
    "README.md",
    "docs/*.md",
    "docs/*.png",
    "docs/*.webp",
    "docs/*.css",
    "stages/**/*.md",
    "stages/**/*.yaml",
    "benchmarks/*.md",
    "benchmarks/*.py",
)
COMMANDS = "docs/commands.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, and those of `PAGES`."""
    root = Path(config.config_file_path).parent
    shown = [file for file in files if file.src_dir != config.docs_dir]
    for pattern in PAGES:
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            shown.append(File.generated(config, name, abs_src_path=str(path)))
    shown.append(File.generated(config, COMMANDS, content=commands()))
    return Files(shown)


def commands() -> str:
    """Every command with its arguments and options, as Markdown."""
    group = typer.main.get_command(app)
    context = group.make_context("weaksam", [], resilient_parsing=True)
    text = typer.cli.get_docs_for_click(obj=group, ctx=context, name="weaksam", title="Commands")
    # typer cuts the sentences of this list; the headings have them whole.
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)
    return text.replace("```console\n$ ", "```text\n")
