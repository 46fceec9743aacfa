"""Gradient size against distance: what is recorded and plotted."""
