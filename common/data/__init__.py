"""The data path: datasets, how they are prepared, and how they become batches."""
