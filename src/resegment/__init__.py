"""resegment: five published segmentation papers, re-run as one traceable pipeline."""

__version__ = "0.1.0"
