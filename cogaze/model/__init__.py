"""The CoGaze model as transformers classes: configuration, model, processor."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration import CoGazeConfig
from .modeling import CoGazeModel, CoGazeOutput
from .processing import CoGazeProcessor

AutoConfig.register("cogaze", CoGazeConfig, exist_ok=True)
AutoModel.register(CoGazeConfig, CoGazeModel, exist_ok=True)
AutoProcessor.register(CoGazeConfig, CoGazeProcessor, exist_ok=True)

__all__ = ["CoGazeConfig", "CoGazeModel", "CoGazeOutput", "CoGazeProcessor"]
