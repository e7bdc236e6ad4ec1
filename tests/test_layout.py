"""The one way through the package: what a folder may import."""

import ast
from pathlib import Path

import rvq

HOME = Path(rvq.__file__).parent
MAY_IMPORT = {
    "quantize": set(),
    "bitstream": {"quantize"},
    "codec": {"quantize", "bitstream"},
    "evaluate": {"quantize", "bitstream", "codec"},
    "corpus": {"quantize", "bitstream", "codec"},
    "web": {"quantize", "bitstream", "codec", "evaluate"},
    "nn": {"quantize"},
    "train": {"quantize", "bitstream", "codec", "nn"},
    "interop": {"quantize", "bitstream", "codec", "nn"},
}
"""Of the folders; modules beside them may be imported by all. `cli` imports what it likes."""
TORCH = {"nn", "train", "interop", "cli"}
"""What imports torch; `cli` where it is used."""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_data_flow_one_way():
    folders = {path.name for path in HOME.iterdir() if (path / "__init__.py").exists()}
    assert folders == {*MAY_IMPORT, "cli"}
    for folder, allowed in MAY_IMPORT.items():
        for path in (HOME / folder).rglob("*.py"):
            seen = {name.split(".")[1] for name in imports(path) if name.startswith("rvq.")}
            assert seen & folders <= allowed | {folder}, path
    for path in HOME.glob("*.py"):
        if path.name not in ("__init__.py", "__main__.py"):
            seen = {name.split(".")[1] for name in imports(path) if name.startswith("rvq.")}
            assert not seen & folders, path


def test_using_the_codec_needs_no_torch():
    found = {
        path.relative_to(HOME)
        for path in HOME.rglob("*.py")
        if any(name.split(".")[0] == "torch" for name in imports(path))
    }
    others = {str(path) for path in found if path.parts[0] not in TORCH}
    assert others == {"corpus/loading.py"}  # datasets for torch's DataLoader
