"""File endings that peftkit reads and writes."""

FILES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".conll", ".conllu")  # data sets
TEXTS = (".txt", ".jsonl", ".parquet")  # corpora
TEXT_FILES = (*TEXTS, ".csv", ".tsv")  # inputs of job=embed
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # predictions
EMBEDDINGS = (".parquet", ".npy")
