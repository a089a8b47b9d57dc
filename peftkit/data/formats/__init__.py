"""Formats: how each kind of task is encoded for each architecture, and how model outputs are decoded."""

from peftkit.data.formats.base import Encoded, Format, Predictions, format_of

__all__ = ["Encoded", "Format", "Predictions", "format_of"]
