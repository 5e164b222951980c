"""data: from uploaded bytes to frozen, split, measured datasets.

Owns datasets and examples, and keeps the door of files (shared/files.py writes them). Hears ImportDataset,
BuildRaftDataset and OrderRaftDataset; says, by its jobs' ends, that a dataset is ready or why it failed. Asks
retrieval for passages by live request when it builds RAFT sets.
"""
