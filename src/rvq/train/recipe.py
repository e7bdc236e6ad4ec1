"""What a training set is made of: a YAML file that lists sources of recordings.

A source is a Debian package, which is downloaded, or a folder that the user has. Held out for
development are whole speakers or whole sources, never single clips of a speaker who is also trained
on: a model that has heard the voice says little about voices it has not heard.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rvq.codec.files import find_recordings
from rvq.errors import InputError, first_problem
from rvq.train.yaml_file import read_yaml, shipped_yaml


class Source(BaseModel):
    """One source of a recipe.

    Patterns are matched against a file's path inside the source, with `*` crossing folders.

    Attributes:
        name: of the packed files.
        description: what it is: language, speakers, kind of recording.
        licence: under which it may be used.
        package: name of the Debian package that holds it; or
        folder: where it lies below the folder of recordings that the user names.
        include: patterns of the files that belong to it.
        exclude: patterns of those that do not after all.
        dev: patterns of the files held out for development: whole speakers, or everything.
        dev_clips: largest number of development clips made per speaker.
        dev_seconds: length of every development clip, cut out of the middle of longer recordings,
            for music does not begin at its beginning; by default 3 to 10 s from the start.
        folder_per_speaker: whether every folder is one speaker; else the source counts as one.
        weight: how often it is drawn in training relative to other sources of its length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    description: str
    licence: str
    package: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9+.-]+$")
    folder: str | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    dev_clips: int = Field(default=10, ge=1)
    dev_seconds: float | None = Field(default=None, ge=1, le=60)
    folder_per_speaker: bool = False
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _one_origin(self) -> "Source":
        if (self.package is None) == (self.folder is None):
            raise ValueError(f"source {self.name} needs either a package or a folder")
        return self

    def split(self, root: Path) -> tuple[list[Path], list[Path]]:
        """The audio files below `root` for training and for development, sorted."""
        train: list[Path] = []
        dev: list[Path] = []
        for path in find_recordings(root):
            inside = path.relative_to(root).as_posix()
            if _matches(inside, self.include) and not _matches(inside, self.exclude):
                (dev if _matches(inside, self.dev) else train).append(path)
        return train, dev


class Recipe(BaseModel):
    """What a data set is made of.

    Attributes:
        name: of the recipe.
        sample_rate: of the packed audio in Hz.
        sources: packed in this order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sample_rate: int = Field(ge=8000, le=96000)
    sources: tuple[Source, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct_names(self) -> "Recipe":
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called {name}")
        return self


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: the file is missing, no YAML, or has fields that are unknown or out of range.
    """
    try:
        return Recipe.model_validate(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def shipped_recipe(name: str) -> Path:
    """Path of a recipe of the package.

    Raises:
        InputError: there is none of that name.
    """
    return shipped_yaml("recipe", "recipes", name)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
