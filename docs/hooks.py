"""What mkdocs does beyond its plugins: links into the code, and sound made by the shipped model."""

import io
import posixpath
import re

import griffe
import numpy as np
import soundfile
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_CARD = "src/rvq/codec/models/speech_24khz/README.md"
SAMPLES = ("learner", "russian", "reader")
BITRATES = (1.5, 3, 6, 12)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Pages of the repository link into its code, which the site does not hold: name it instead."""

    def to_text(link: re.Match) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if page.file.src_uri == "model-card.md" and target.endswith("docs/experiments.md"):
            return f"[{text}](experiments.md{anchor})"
        leaves = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), target))
        return text if leaves.startswith("../") else link[0]

    # The card is included here and not by the snippets extension, which would come after this.
    markdown = markdown.replace("<!-- card -->", _card())
    return _LINK.sub(to_text, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The samples of the web page, decoded at several bitrates by the model as it is now."""
    import rvq
    from rvq.web.listening import SAMPLES as HOME

    codec = rvq.Codec.load()
    for name in SAMPLES:
        data = (HOME / f"{name}.flac").read_bytes()
        audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        files.append(File.generated(config, f"audio/{name}.flac", content=data))
        for bitrate in BITRATES:
            decoded = codec.decompress(codec.compress(audio.T, rate, bitrate=bitrate))
            flac = io.BytesIO()
            soundfile.write(flac, np.clip(decoded.T, -1, 1), rate, format="FLAC", subtype="PCM_16")
            path = f"audio/{name}-{bitrate:g}.flac"
            files.append(File.generated(config, path, content=flac.getvalue()))
    return files


class Examples(griffe.Extension):
    """Google's style calls the section Examples; the code, as most of its kind has one, Example."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rename it before it is read."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", value, flags=re.MULTILINE)


def _card() -> str:
    with open(_CARD, encoding="utf-8") as file:
        return file.read()
