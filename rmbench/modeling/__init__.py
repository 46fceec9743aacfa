"""Backbone, head, layout: pairs in, rewards and embeddings out."""
