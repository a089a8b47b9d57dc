"""Turn rows and text into batches."""
