CREATE TABLE taxonomy_changes (
  taxonomy_version INT NOT NULL COMMENT 'The tree that the categories moved to',
  old_category_id STRING NOT NULL COMMENT 'A category of an earlier tree that is not in this one',
  old_path STRING NOT NULL COMMENT 'Its path',
  new_category_id STRING COMMENT 'The category it is now; null when it was split or withdrawn',
  new_paths ARRAY<STRING> NOT NULL COMMENT 'Paths it became: one, several after a split (parts that were withdrawn since among them), none when withdrawn',
  change STRING NOT NULL COMMENT 'renamed, moved, merged, split or withdrawn',
  run_id STRING NOT NULL COMMENT 'The run that wrote it'
) USING DELTA
COMMENT 'Where the categories of earlier trees are now, whole for each version'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.change_known' = "change IN ('renamed', 'moved', 'merged', 'split', 'withdrawn')",
  'delta.constraints.one_place_or_none' = '(size(new_paths) = 1) = (new_category_id IS NOT NULL)'
)
