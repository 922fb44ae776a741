CREATE TABLE rejected_images (
  product_id STRING NOT NULL COMMENT 'Product of the manifest row, empty when the row has none',
  source_uri STRING NOT NULL COMMENT 'Image location as the manifest gives it',
  reason STRING NOT NULL COMMENT 'Why the image was not stored: one of a closed list',
  detail STRING COMMENT 'What was seen, for a person',
  attempts INT NOT NULL COMMENT 'How often the image was tried; an unchanged file is not tried again',
  source_bytes BIGINT COMMENT 'Size of the source file, null when there is none',
  source_modified_at TIMESTAMP COMMENT 'Modification time of the source file (UTC)',
  first_seen_at TIMESTAMP NOT NULL COMMENT 'When the image was first rejected (UTC)',
  last_seen_at TIMESTAMP NOT NULL COMMENT 'When it was last tried and rejected (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that last tried it',
  expected_sha256 STRING COMMENT 'Checksum that the manifest gave when the image was last tried'
) USING DELTA
COMMENT 'Manifest rows whose image could not be stored, each with its reason'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.constraints.reason_not_empty' = 'length(reason) > 0',
  'delta.constraints.attempts_positive' = 'attempts > 0'
)
