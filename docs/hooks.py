"""What mkdocs adds beyond its plugins: links into the code, and sound by the shipped models."""

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
_CARD = re.compile(r"<!-- card of (\w+) -->")
SAMPLES = {
    "speech_24khz": ("learner", "russian", "reader"),
    "audio_24khz": ("guitar", "learner"),
}
"""Models with a page, and what is heard on it."""
BITRATES = (1.5, 3, 6, 12)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Pages of the repository link into its code, which the site does not hold: name it instead."""

    def to_text(link: re.Match) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if page.file.src_uri.startswith("model-card") and target.endswith("docs/experiments.md"):
            return f"[{text}](experiments.md{anchor})"
        leaves = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), target))
        return text if leaves.startswith("../") else link[0]

    # The card is included here and not by the snippets extension, which would come after this.
    markdown = _CARD.sub(lambda marker: _card(marker[1]), markdown)
    return _LINK.sub(to_text, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The samples of the web page, decoded at several bitrates by the models as they are now."""
    import rvq
    from rvq.web.listening import SAMPLES as HOME

    for model, names in SAMPLES.items():
        codec = rvq.Codec.load(model)
        for name in names:
            data = (HOME / f"{name}.flac").read_bytes()
            files.append(File.generated(config, f"audio/{model}/{name}.flac", content=data))
            audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
            for bitrate in BITRATES:
                decoded = codec.decompress(codec.compress(audio.T, rate, bitrate=bitrate))
                path = f"audio/{model}/{name}-{bitrate:g}.flac"
                content = _flac(decoded, rate)
                files.append(File.generated(config, path, content=content))
    return files


class Examples(griffe.Extension):
    """Google's style calls the section Examples; the code, as most of its kind has one, Example."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rename it before it is read."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", value, flags=re.MULTILINE)


def _flac(audio: np.ndarray, rate: int) -> bytes:
    flac = io.BytesIO()
    soundfile.write(flac, np.clip(audio.T, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return flac.getvalue()


def _card(model: str) -> str:
    with open(f"src/rvq/codec/models/{model}/README.md", encoding="utf-8") as file:
        return file.read()
