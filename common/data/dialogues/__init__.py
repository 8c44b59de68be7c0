"""Dialogues: read from JSONL, written in the form of a chat template, packed into windows."""
