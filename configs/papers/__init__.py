"""Configs of published papers, at their settings: one file per paper, its runs as variants."""
