CREATE TABLE image_duplicates (
  image_id STRING NOT NULL COMMENT 'SHA-256 of the source bytes: the key of images',
  perceptual_hash BIGINT COMMENT 'The hash that was compared; null for a plain surface, which is like nothing else',
  duplicate_group STRING NOT NULL COMMENT 'Lowest image_id of the images that look alike, over any chain of such pairs; its own when alone',
  grouped_at TIMESTAMP NOT NULL COMMENT 'When the group of this image last changed (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that last changed this row'
) USING DELTA
COMMENT 'Every stored image with the group of near duplicates it belongs to'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingNumIndexedCols' = '1',
  'delta.constraints.image_id_is_sha256' = 'length(image_id) = 64',
  'delta.constraints.group_is_lowest' = 'duplicate_group <= image_id'
)
