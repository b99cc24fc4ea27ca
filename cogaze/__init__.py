"""cogaze: context- and gaze-guided vision-language pretraining for chest X-rays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import CoGazeConfig, CoGazeModel, CoGazeOutput, CoGazeProcessor

__version__ = "0.1.0"
__all__ = ["CoGazeConfig", "CoGazeModel", "CoGazeOutput", "CoGazeProcessor", "__version__"]


def __getattr__(name: str) -> Any:
    """The model's classes, imported when they are first asked for: `import cogaze` alone stays quick."""
    if name in __all__:
        from . import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
