"""What networks are for: how a package of each kind is presented, measured, drawn and compared. One file a task.

`InPlace` puts a package where its network stood in a LightningModule, so that the module's own validation measures it.
"""

from lightning_compress.tasks.classification import Classification
from lightning_compress.tasks.detection import Detection
from lightning_compress.tasks.in_place import InPlace
from lightning_compress.tasks.segmentation import Segmentation
from lightning_compress.tasks.task import Task

__all__ = ["Classification", "Detection", "InPlace", "Segmentation", "Task"]
