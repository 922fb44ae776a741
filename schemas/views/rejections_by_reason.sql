-- Rejected images by reason, with the time of the last one.
SELECT reason, count(*) AS images, max(last_seen_at) AS last_seen_at
FROM rejected_images
GROUP BY reason
