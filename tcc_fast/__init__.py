"""tcc-fast: twin-contrast clustering of unlabelled images, at the speed of the hardware."""

__version__ = "0.1.0"
