"""A trained model as a folder for others: weights, tokenizer, model card and, if asked for, ONNX."""


class ExportError(ValueError):
    """A model that cannot be exported; the message says why and what to do."""
