CREATE TABLE images (
  image_id STRING NOT NULL COMMENT 'SHA-256 of the source bytes, hexadecimal',
  content BINARY NOT NULL COMMENT 'The stored JPEG: RGB, upright, short side at most ingest.stored_side',
  width INT NOT NULL COMMENT 'Width of the stored image in pixels',
  height INT NOT NULL COMMENT 'Height of the stored image in pixels',
  source_format STRING NOT NULL COMMENT 'Format by content: JPEG, PNG, WEBP, GIF, BMP or TIFF',
  source_width INT NOT NULL COMMENT 'Width of the source in pixels, as stored in the file',
  source_height INT NOT NULL COMMENT 'Height of the source in pixels, as stored in the file',
  source_bytes BIGINT NOT NULL COMMENT 'Size of the source file',
  is_animated BOOLEAN NOT NULL COMMENT 'True when the source has several frames; the first is stored',
  ingested_at TIMESTAMP NOT NULL COMMENT 'When the image was first stored (UTC)',
  run_id STRING NOT NULL COMMENT 'The run that stored it',
  perceptual_hash BIGINT COMMENT '64-bit pHash of the stored image; images that look alike differ in few bits. Null for a plain surface',
  brightness DOUBLE COMMENT 'Mean luma, 0 black to 1 white',
  contrast DOUBLE COMMENT 'Standard deviation of luma, 0 to 0.5',
  sharpness DOUBLE COMMENT 'Variance of the Laplacian of luma in grey levels; low means blurred or plain',
  entropy DOUBLE COMMENT 'Shannon entropy of the luma histogram in bits, 0 to 8',
  background_share DOUBLE COMMENT 'Share of pixels that look like the border, 0 to 1: 1 is a plain surface'
) USING DELTA
COMMENT 'Every distinct image once, decoded, checked and resized'
TBLPROPERTIES (
  'delta.enableDeletionVectors' = 'false',
  'delta.dataSkippingStatsColumns' = 'image_id,ingested_at',
  'delta.constraints.image_id_is_sha256' = 'length(image_id) = 64',
  'delta.constraints.content_not_empty' = 'octet_length(content) > 0',
  'delta.constraints.sides_positive' = 'width > 0 AND height > 0'
)
