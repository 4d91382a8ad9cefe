"""Definitions and synonyms written by language models: generation, answers, checks."""
