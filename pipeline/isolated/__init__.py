"""Decoding in processes of their own, so that a file that breaks a decoder costs itself alone."""
