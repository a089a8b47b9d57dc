"""Run folders: result.json, predictions, model cards, and the console log."""
