CREATE TABLE categories (
  taxonomy_version INT NOT NULL COMMENT 'Version of the whole tree, counted from 1',
  category_id STRING NOT NULL COMMENT 'Stable identifier, made from the path',
  parent_id STRING COMMENT 'category_id of the parent, null for a department',
  name STRING NOT NULL COMMENT 'Last part of the path',
  path STRING NOT NULL COMMENT 'Full path, such as Fruit/Apple/Granny-Smith',
  level INT NOT NULL COMMENT 'Depth in the tree, 1 for a department'
) USING DELTA
COMMENT 'The category tree, whole for each version'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.level_positive' = 'level > 0',
  'delta.constraints.parent_unless_root' = '(level = 1) = (parent_id IS NULL)'
)
