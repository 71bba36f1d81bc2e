"""Count the code lines of the program by package: without blank lines, comments and docstrings.

python benchmarks/size.py [FOLDER]
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(text: str) -> int:
    """Lines of a module that hold code."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for item in body if isinstance(body, list) else ():
            text_alone = isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
            if text_alone and isinstance(item.value.value, str):
                documented.update(range(item.lineno, (item.end_lineno or item.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def main(folder: Path) -> None:
    """Print a line a package, and the sum."""
    lines, files = Counter[str](), Counter[str]()
    for path in sorted(folder.rglob("*.py")):
        package = path.relative_to(folder).parts[0]
        lines[package] += code_lines(path.read_text(encoding="utf-8"))
        files[package] += 1
    for package, count in lines.most_common():
        sys.stdout.write(f"{count:7,d} lines {files[package]:4d} files  {package}\n")
    sys.stdout.write(f"{lines.total():7,d} lines {files.total():4d} files\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "src/weaksam_cli"))
