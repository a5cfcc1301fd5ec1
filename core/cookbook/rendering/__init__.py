"""Messages to token ids and back: `get_renderer(id, tokenizer, **options)`, `load_tokenizer(model)`."""

from .base import Renderer, TrainOnWhat, get_renderer
from .draft import Origin, Rendered
from .images import Image, ImageChunk
from .messages import Plain, plain
from .stream import Delta, Parsed, ResponseStream
from .tokenizers import Tokenizer, load_tokenizer

__all__ = [
    "Delta",
    "Image",
    "ImageChunk",
    "Origin",
    "Parsed",
    "Plain",
    "Rendered",
    "Renderer",
    "ResponseStream",
    "Tokenizer",
    "TrainOnWhat",
    "get_renderer",
    "load_tokenizer",
    "plain",
]
