"""Messages to token ids and back: `get_renderer(id, tokenizer, **options)`, `load_tokenizer(model)`."""

from .base import Parsed, Renderer, TrainOnWhat, get_renderer
from .draft import Rendered
from .tokenizers import Tokenizer, load_tokenizer

__all__ = ["Parsed", "Rendered", "Renderer", "Tokenizer", "TrainOnWhat", "get_renderer", "load_tokenizer"]
