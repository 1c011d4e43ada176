"""Reads OHLCV data of any usual form into checked, read-only bars."""
