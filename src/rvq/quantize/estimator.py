"""The conventions of scikit-learn's estimators, without depending on it."""

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError
from rvq.quantize.vectors import as_vectors, variance


class Estimator(ABC):
    """A quantizer whose constructor arguments are parameters, kept under their names.

    `sklearn.base.clone` and pipelines work on what this gives them. A subclass lists in `_least`
    the smallest value of every integer parameter.
    """

    _least: ClassVar[dict[str, int]] = {}

    @property
    @abstractmethod
    def n_features_in_(self) -> int:
        """Dimension of the vectors that `fit` saw."""

    @abstractmethod
    def fit(self, x: npt.ArrayLike, y: None = None) -> Self:
        """Learn from vectors `[..., dim]`; y is ignored, scikit-learn passes it."""

    @abstractmethod
    def encode(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Codes of vectors `[..., dim]`."""

    @abstractmethod
    def decode(self, codes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Vectors of codes."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; `deep` is accepted for scikit-learn and changes nothing."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names}

    def set_params(self, **parameters: Any) -> Self:
        """Change parameters; those that shape the codebooks take effect with the next `fit`.

        Raises:
            InputError: an unknown parameter, or a value out of range.
        """
        known = self.get_params()
        for name in parameters:
            if name not in known:
                raise InputError(f"no parameter {name!r}; there are {', '.join(known)}")
        self._check({**known, **parameters})
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def _check(self, parameters: dict[str, Any]) -> None:
        for name, least in self._least.items():
            value = parameters[name]
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
                raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")

    def _learned(self, name: str) -> Any:
        """What `fit` left under this name."""
        if name not in vars(self):
            raise InputError("the quantizer has learned nothing yet; call fit first")
        return vars(self)[name]

    def transform(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The same as `encode`, under scikit-learn's name."""
        return self.encode(x)

    def inverse_transform(self, codes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The same as `decode`, under scikit-learn's name."""
        return self.decode(codes)

    def fit_transform(self, x: npt.ArrayLike, y: None = None) -> npt.NDArray[np.int64]:
        """`fit`, then `encode` the same vectors."""
        return self.fit(x).encode(x)

    def score(self, x: npt.ArrayLike, y: None = None) -> float:
        """Share of the variance of vectors `[..., dim]` that their codes keep, at most 1."""
        vectors = as_vectors(x, distances=False)  # `encode` refuses what it must
        flat = vectors.reshape(-1, vectors.shape[-1])
        left = flat - self.decode(self.encode(flat))
        error = np.einsum("nd,nd->", left, left, dtype=np.float64) / len(flat)
        return float(1 - error / variance(flat))

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
        )

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({listed})"
