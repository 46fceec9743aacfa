"""Preference pairs: files and the Hub, every form of row, token ids."""
