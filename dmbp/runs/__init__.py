"""Many images: batches that fit the memory, and a folder of results from which a long run goes on."""
