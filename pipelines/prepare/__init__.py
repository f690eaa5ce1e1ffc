"""Turn a corpus as it was downloaded into an index that the other jobs read: one module a kind of corpus."""
