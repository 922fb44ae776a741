-- What is measured of every image, with flags for those worth a look; null for images never measured.
SELECT
  image_id,
  width,
  height,
  greatest(source_width, source_height) / least(source_width, source_height) AS aspect_ratio,
  brightness,
  contrast,
  sharpness,
  entropy,
  background_share,
  -- Below this mean, shapes drown in black on a common screen.
  brightness < 0.15 AS is_dark,
  -- A good photo on white reaches 0.9: above this hardly anything but background is left.
  brightness > 0.95 AS is_bright,
  -- All within some 10 grey levels around the mean: fog, or a watermark on white.
  contrast < 0.04 AS is_low_contrast,
  -- 100 is the usual bound of a sharp photo; an empty background has no edges, so only the rest counts.
  sharpness < 100 * (1 - background_share) AS is_blurred,
  -- Fewer than two equally common grey levels: less than a line drawing has.
  entropy < 1.0 AS is_low_information,
  -- Longer than 3 to 1: banners and strips, which a square crop cuts to pieces.
  greatest(source_width, source_height) > 3 * least(source_width, source_height) AS is_odd_shaped,
  -- One pixel in a hundred may differ, by dust or compression: there is no product to be seen.
  background_share > 0.99 AS is_plain
FROM images
