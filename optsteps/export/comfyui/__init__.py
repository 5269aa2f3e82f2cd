"""Nodes for ComfyUI that sample with schedules of optsteps: this folder is the node pack, and needs torch alone."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
