SELECT
    machine_id,
    max(read_at) >= $cut - INTERVAL 60 DAYS AS in_use,
    avg(vibration) FILTER (read_at >= $cut - INTERVAL 30 DAYS) AS vibration_mean_30d,
    avg(heat) FILTER (read_at >= $cut - INTERVAL 30 DAYS) AS heat_mean_30d,
    count(*) FILTER (read_at >= $cut - INTERVAL 30 DAYS) AS readings_30d
FROM readings
GROUP BY machine_id
