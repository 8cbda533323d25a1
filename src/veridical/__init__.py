"""Preference alignment for vision-language models that proves what it did."""
