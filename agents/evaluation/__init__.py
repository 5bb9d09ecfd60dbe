"""Whole episodes: playing, scoring, recording and replaying them."""
