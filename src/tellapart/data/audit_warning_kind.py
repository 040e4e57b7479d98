"""What the warnings of an audit are about."""

from enum import StrEnum


class AuditWarningKind(StrEnum):
    """What a warning of the audit is about. Programs look at these names; the wording may change."""

    FILES_SKIPPED = "files_skipped"
    UNREADABLE = "unreadable"
    LABEL_CONFLICTS = "label_conflicts"
    NEAR_LABEL_CONFLICTS = "near_label_conflicts"
    LEAKAGE = "leakage"
    DUPLICATES = "duplicates"
    LOOK_ALIKES = "look_alikes"
    SAME_SCENE = "same_scene"
    NAME_GROUPS = "name_groups"
    SIMILAR_CLASS_NAMES = "similar_class_names"
    IMBALANCE = "imbalance"
    DIM_IMAGES = "dim_images"
