CREATE TABLE product_images (
  product_id STRING NOT NULL COMMENT 'Product that shows this image',
  source_uri STRING NOT NULL COMMENT 'Image location as the manifest gives it, relative to the image root',
  position INT NOT NULL COMMENT "Order among the product's images, 0 first",
  image_id STRING NOT NULL COMMENT 'SHA-256 of the source bytes: the key of images',
  source_bytes BIGINT NOT NULL COMMENT 'Size of the source file when it was read',
  source_modified_at TIMESTAMP COMMENT 'Modification time of the source file when it was read (UTC)',
  updated_at TIMESTAMP NOT NULL COMMENT 'When a run last changed this row (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that last changed this row',
  delisted_at TIMESTAMP COMMENT 'When a full manifest first no longer named this image (UTC); null while it is listed'
) USING DELTA
COMMENT 'Which product shows which image; size and time make the next ingest incremental'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingNumIndexedCols' = '2',
  'delta.constraints.image_id_is_sha256' = 'length(image_id) = 64',
  'delta.constraints.position_not_negative' = 'position >= 0',
  'delta.constraints.source_bytes_positive' = 'source_bytes > 0'
)
