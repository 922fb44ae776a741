CREATE TABLE manifests (
  night DATE NOT NULL COMMENT 'The night that the manifest describes, as --night gave it',
  uri STRING NOT NULL COMMENT 'Where the manifest was read',
  is_full BOOLEAN NOT NULL COMMENT 'True when it names the whole catalogue: what it does not name is delisted',
  row_count BIGINT NOT NULL COMMENT 'Rows of the manifest, bad ones too',
  columns MAP<STRING, STRING> NOT NULL COMMENT 'Its columns with their types: the next manifest may not lose or retype a known one',
  accepted_at TIMESTAMP NOT NULL COMMENT 'When it was ingested (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that ingested it'
) USING DELTA
COMMENT 'Manifests that were ingested: the order of nights, and the columns to expect'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.uri_not_empty' = 'length(uri) > 0'
)
