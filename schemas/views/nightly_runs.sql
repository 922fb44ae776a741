-- Runs of the jobs, one line each, with what each has counted: for a scoring, its decisions too.
SELECT
  run_id,
  job,
  status,
  exit_code,
  model,
  rows_in,
  rows_out,
  counts,
  round(images_per_second, 1) AS images_per_second,
  round(unix_millis(finished_at) / 1000 - unix_millis(started_at) / 1000, 1) AS seconds,
  started_at,
  error
FROM run_log
