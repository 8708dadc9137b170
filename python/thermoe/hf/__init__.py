"""thermoe inside Hugging Face transformers: thermoe.attach(model), thermoe.detach(model)."""

from .attachment import Attachment, attach, detach
from .report import Report

__all__ = ["Attachment", "Report", "attach", "detach"]
