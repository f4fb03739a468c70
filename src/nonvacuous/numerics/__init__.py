"""Outward-rounded arithmetic on which every certificate rests; imports no torch."""
