"""Objects as files in a folder: a local disk, or a file system that hosts share."""

from modelvault.adapters.objects_folder.store import FolderStore

__all__ = ["FolderStore"]
