"""Synthetic worlds whose events are known exactly: footage, and the instruments that measure it."""
