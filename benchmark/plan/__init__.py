"""From a grid file to cells and tasks. This package handles data only; it runs no model."""
