"""Turns files into searchable passages and finds the relevant ones.

Owns vector_stores, vector_store_files, documents and passages. Hears IndexVectorStore. Answers retrieval.search and
retrieval.embed.
"""
