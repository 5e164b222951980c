"""Turns files into searchable passages and finds the relevant ones.

Owns vector_stores, vector_store_files, vector_store_batches, vector_store_batch_files, documents and passages. Hears
IndexVectorStore and FreeVectorStore. Answers retrieval.search and retrieval.embed.
"""
