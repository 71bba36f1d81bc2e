"""The artifact store: columnar HDF5 and COCO-JSON files with receipts, shards, freshness and refusal in words."""

from weaksam_cli.artifacts.reader import Artifact, open_artifact

__all__ = ["Artifact", "open_artifact"]
