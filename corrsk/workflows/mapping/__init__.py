"""Maps of measured images: from files to label maps, tables and a record, subject by subject."""

from corrsk.workflows.mapping.cluster import connected
from corrsk.workflows.mapping.plan import MapSettings
from corrsk.workflows.mapping.report import write_report
from corrsk.workflows.mapping.run import describe_plan, map_subjects
from corrsk.workflows.mapping.subjects import Subject, find_subjects

__all__ = [
    "MapSettings",
    "Subject",
    "connected",
    "describe_plan",
    "find_subjects",
    "map_subjects",
    "write_report",
]
