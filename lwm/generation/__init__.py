"""Caches, sampling, and text, images and clips from prompts."""
