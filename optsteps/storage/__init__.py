"""Storage: files that appear whole or not at all, documents of strangers, and the store of finished shards."""
