"""Anybody's OHLCV becomes checked, sealed bars."""
